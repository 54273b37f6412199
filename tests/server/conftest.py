from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_server import LiveServer, wait_until


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests that leave it as they found it."""
    live = LiveServer(tmp_path_factory.mktemp("home"), "--model", "tiny")
    wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
    yield live
    live.stop()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Servers that a test may break; stopped afterwards."""
    made: list[LiveServer] = []

    def make(*args: str, **env: str) -> LiveServer:
        made.append(LiveServer(tmp_path / f"home{len(made)}", *args, **env))
        return made[-1]

    yield make
    for live in made:
        if live.process.poll() is None:
            live.process.kill()
            live.process.wait()


@pytest.fixture
def make_endless(make_server: Callable[..., LiveServer], endless_path: Path) -> Callable[..., LiveServer]:
    """Such servers, with the model `endless` loaded: its answers do not end while a test looks."""

    def make(*args: str, **env: str) -> LiveServer:
        live = make_server("--model", "endless", *args, MYLLM_MODEL_DIRS=str(endless_path.parent), **env)
        wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
        return live

    return make
