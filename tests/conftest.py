"""What holds for all tests: they see nothing that other programs keep on this machine, not in processes of their own either.

And what several folders of tests share: a model whose answers do not end, and a server of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from endless_model import EXACT, write_endless_model
from live_server import LiveServer, wait_until


@pytest.fixture(scope="session", autouse=True)
def _a_home_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    nobody = tmp_path_factory.mktemp("nobody")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(nobody))
        patch.setenv("HF_HOME", str(nobody / "huggingface"))
        patch.setenv("OLLAMA_MODELS", str(nobody / "ollama"))
        theirs = ("OLLAMA_HOST", "OLLAMA_KEEP_ALIVE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_ORIGINS")
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", *theirs):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def endless_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_model(tmp_path_factory.mktemp("endless"))


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory, endless_path: Path) -> Iterator[LiveServer]:
    """A server whose one loaded model, `endless`, answers until its client leaves. Tests leave it as they found it."""
    live = LiveServer(tmp_path_factory.mktemp("home"), "--model", "endless", MYLLM_MODEL_DIRS=str(endless_path.parent), **EXACT)
    wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
    yield live
    live.stop()
