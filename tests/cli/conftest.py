"""One server for all tests of the verbs, and `myllm` beside it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.programs import Server, Terminal, environment, run
from live_server import LiveServer

Myllm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    server = Server(folder / "home", folder / "log", "--model", "tiny")
    yield server
    server.end()


@pytest.fixture
def myllm(server: Server) -> Myllm:
    """`myllm ARGUMENTS` in the server's home."""
    return lambda *arguments, stdin=None: run(arguments, environment(server.home, server.url), stdin)


@pytest.fixture
def alone(tmp_path: Path) -> Myllm:
    """`myllm ARGUMENTS` in an empty home, where no server is: nobody can listen on port 1."""
    return lambda *arguments, stdin=None: run(arguments, environment(tmp_path / "home", "http://127.0.0.1:1"), stdin)


@pytest.fixture
def terminal(server: Server) -> Iterator[Callable[..., Terminal]]:
    """`myllm ARGUMENTS` in a terminal; `at` is another server than that of all tests."""
    opened: list[Terminal] = []

    def open_terminal(*arguments: str, at: Server | LiveServer = server) -> Terminal:
        opened.append(Terminal(arguments, environment(at.home, at.url)))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.end()


@pytest.fixture
def session(myllm: Myllm) -> Callable[[str], dict[str, Any]]:
    """A session as the server stores it."""
    return lambda session_id: json.loads(myllm("sessions", "show", session_id, "--json").stdout)
