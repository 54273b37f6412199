"""A second port with the Ollama dialect at its root: the same models, keys and sessions behind it."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import httpx
import pytest
from live_server import LiveServer, wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def both(make_server: Callable[..., LiveServer]) -> tuple[LiveServer, httpx.Client]:
    """A server, and a client of its Ollama port."""
    server = make_server("--ollama-port", str(free_port()))
    told = wait_until(lambda: [line for line in server.log if "the Ollama API is at" in line], "the second address was told")
    return server, httpx.Client(base_url=re.search(r"http://\S+", told[0])[0], timeout=60)


def test_the_second_port_serves_the_ollama_dialect_and_v1_at_its_root(both: tuple[LiveServer, httpx.Client]) -> None:
    server, ollama = both

    assert ollama.get("/").text == "Ollama is running"
    assert ollama.get("/api/tags").json() == server.http.get("/ollama/api/tags").json()
    assert [model["id"] for model in ollama.get("/v1/models").json()["data"]] == ["tiny"]
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}], "stream": False, "options": {"temperature": 0}}
    assert ollama.post("/api/chat", json=ask).json()["message"]["content"].startswith("Hello! I am tiny")
    assert server.status()["status"] == "loaded"  # one pool: what the one port loaded, the other has


def test_what_is_not_the_ollama_apis_is_not_on_its_port(both: tuple[LiveServer, httpx.Client]) -> None:
    server, ollama = both

    for path in ("/api/models", "/api/sessions", "/models", "/health", "/docs", "/ollama/api/tags"):
        assert ollama.get(path).status_code == 404
    assert server.http.get("/api/tags").status_code == 404


def test_where_the_port_is_taken_the_main_one_serves_on_if_the_setting_says_so(make_server: Callable[..., LiveServer]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        server = make_server("--ollama-port", str(port), MYLLM_OLLAMA_PORT_REQUIRED="false")

    assert server.http.get("/health").status_code == 200
    assert server.http.get("/v1/models").status_code == 200
    assert any(f"port {port} on 127.0.0.1 is already in use" in line and "/ollama" in line for line in server.log)
