"""Keys in the Ollama dialect: what a key of scope `inference` may do, and what takes one of scope `admin`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from ollama_calls import HELLO, ask

from myllm.keys import KeyStore

DIGEST = f"sha256:{'0' * 64}"
ADMIN_ONLY: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "pull", {"model": "tiny"}),
    ("POST", "push", {"model": "tiny"}),
    ("POST", "create", {"model": "new", "from": "tiny"}),
    ("POST", "copy", {"source": "tiny", "destination": "new"}),
    ("DELETE", "delete", {"model": "new"}),
    ("POST", f"blobs/{DIGEST}", {}),
    ("POST", "generate", {"model": "tiny", "keep_alive": 0}),
    ("POST", "chat", {"model": "tiny", "keep_alive": "100ms"}),
    ("POST", "chat", {"model": "tiny", "messages": ask("x"), "keep_alive": 0}),
    ("POST", "embed", {"model": "tiny", "input": "x", "keep_alive": 0}),
    ("POST", "generate", {"model": "tiny", "prompt": "x", "options": {"num_batch": 64}}),
]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, str]]:
    """A server with keys, and one of scope `inference`."""
    home = tmp_path_factory.mktemp("home")
    with closing(KeyStore(home / "keys.db")) as store:
        secret = store.create("alice", rpm=0, tpm=0, rpd=0)
    live = LiveServer(home, "--api-key", "given")
    yield live, secret
    live.stop()


def send(locked: tuple[LiveServer, str], method: str, path: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    server, secret = locked
    headers = {"authorization": f"Bearer {secret if key is None else key}"} if key != "" else {}
    return server.http.request(method, f"/ollama/api/{path}", json=body, headers=headers)


@pytest.mark.parametrize(("method", "path", "body"), ADMIN_ONLY, ids=lambda value: str(value)[:40])
def test_what_changes_models_takes_an_admins_key(locked: tuple[LiveServer, str], method: str, path: str, body: dict[str, Any]) -> None:
    response = send(locked, method, path, body)

    assert response.status_code == 403 and "admin" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", {"messages": ask("Hello!"), "keep_alive": "5m", "options": {"temperature": 0, "num_ctx": 512}}),
        ("generate", {}),
        ("embed", {"input": "x"}),
        ("show", {}),
    ],
)
def test_models_are_used_with_any_key(locked: tuple[LiveServer, str], path: str, body: dict[str, Any]) -> None:
    response = send(locked, "POST", path, {"model": "tiny", "stream": False, **body})

    assert response.status_code == 200
    if path == "chat":
        assert response.json()["message"]["content"] == HELLO


def test_an_admins_key_does_it_all(locked: tuple[LiveServer, str]) -> None:
    for method, path, body in (("POST", "copy", {"source": "tiny", "destination": "new"}), ("DELETE", "delete", {"model": "new"})):
        assert send(locked, method, path, body, key="given").status_code == 200
    assert send(locked, "POST", "generate", {"model": "tiny", "keep_alive": 0}, key="given").json()["done_reason"] == "unload"


def test_without_a_key_there_is_only_the_front_door(locked: tuple[LiveServer, str]) -> None:
    http = locked[0].http

    assert [http.get(path).status_code for path in ("/ollama/", "/ollama/api/version")] == [200, 200]
    for path in ("tags", "ps"):
        response = http.get(f"/ollama/api/{path}")
        assert response.status_code == 401 and "key" in response.json()["error"]
