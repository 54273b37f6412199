"""Who may talk to a server without keys, told from a request's headers and the port that it came to."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.datastructures import Headers

from myllm.config import Settings
from myllm.server.guard import Guard, allowed_origins


def problem(settings: Settings, host: str, port: int) -> str | None:
    async def nobody(*args: Any) -> None:
        raise AssertionError("nothing is served here")

    guard = Guard(nobody, settings, allowed_origins(settings), render_error=lambda scope, error: pytest.fail("nor told"))
    return guard.problem("GET", Headers({"host": host}), port)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://192.168.1.5:3000", True),
        ("app://obsidian.md", True),
        ("https://chat.example.org", True),
        ("http://localhost:5173", True),
        ("http://10.0.0.1", False),
        ("https://chat.example.org.evil.com", False),
        ("https://chatxexample.org", False),
        ("https://192.168.1.5", False),
    ],
)
def test_an_origin_may_be_written_with_a_star_for_any_letters(origin: str, is_allowed: bool) -> None:
    settings = Settings(cors_origins=("http://192.168.*", "app://*", "https://chat.example.org/"))

    assert (allowed_origins(settings).fullmatch(origin) is not None) == is_allowed


@pytest.mark.parametrize("origin", ["http://LOCALHOST:3000", "HTTPS://Chat.Example.org"])
def test_an_origin_that_is_allowed_is_allowed_by_the_pattern_alone_as_cors_reads_it(origin: str) -> None:
    origins = allowed_origins(Settings(cors_origins=("https://chat.example.org",)))

    assert origins.fullmatch(origin) and re.compile(origins.pattern).fullmatch(origin)


@pytest.mark.parametrize(
    ("host", "ollama_host", "port", "is_refused"),
    [
        ("127.0.0.1", "0.0.0.0", 11434, False),
        ("127.0.0.1", "0.0.0.0", 8000, True),
        ("127.0.0.1", None, 11434, True),
        ("0.0.0.0", "127.0.0.1", 11434, True),
        ("0.0.0.0", "127.0.0.1", 8000, False),
    ],
)
def test_a_foreign_host_header_is_refused_where_only_this_machine_listens(
    host: str, ollama_host: str | None, port: int, is_refused: bool
) -> None:
    settings = Settings(host=host, ollama_host=ollama_host, ollama_port=11434)

    assert (problem(settings, "box.example.org", port) is not None) == is_refused
    assert problem(settings, "localhost:11434", port) is None


@pytest.mark.parametrize("host", ["[", "]", "[::1", "127.0.0.1]", ""])
def test_a_host_header_that_is_none_is_refused(host: str) -> None:
    assert "is not this machine" in str(problem(Settings(), host, 8000))
