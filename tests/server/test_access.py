"""Who may ask for what: every route of the application, on both ports, without a key and with each kind of key.

The routes are read from the application itself, so one that is new is asked about here before anybody thinks of it.
"""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from live_server import EVENT_S, LiveServer, wait_until
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from myllm.chat.library import TemplateLibrary, templates_folder
from myllm.config import Settings
from myllm.keys import Keyring, KeyStore
from myllm.manager import ModelManager
from myllm.server.app import create_app
from myllm.server.readiness import Readiness
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.store.catalog import Catalog
from myllm.store.store import Store

PUBLIC = {"/", "/health", "/ollama/", "/ollama/api/version"}
ADMINS = {
    "POST /api/models/pull",
    "POST /api/models/{name:path}/load",
    "POST /api/models/{name:path}/unload",
    "DELETE /api/models/{name:path}",
    "POST /ollama/api/pull",
    "POST /ollama/api/push",
    "POST /ollama/api/create",
    "POST /ollama/api/copy",
    "DELETE /ollama/api/delete",
    "POST /ollama/api/blobs/{digest}",
    "HEAD /ollama/api/blobs/{digest}",
}
OF_AN_ACCOUNT = {"POST /ollama/api/me", "POST /ollama/api/signout"}  # 401 to everybody: nobody is signed in at ollama.com here
EMBEDDERS_ONLY = re.compile("/(api|chat|code)/v1/embeddings")
LOAD = "/api/models/{name}/load"  # takes `keep_alive`, and is an admin's as a whole

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"model": "tiny", "messages": ASK["messages"], "options": {"max_tokens": 2}},
    "/api/generate": {"model": "tiny", "prompt": "Once", "options": {"max_tokens": 2}},
    "/chat/completions": ASK,
    "/completions": {"model": "tiny", "prompt": "Once", "max_tokens": 2},
    "/responses": {"model": "tiny", "input": "Hello!", "max_output_tokens": 2},
    "/embeddings": {"model": "tiny", "input": "Hello!"},
    "/rerank": {"model": "tiny", "query": "Hello!", "documents": ["Hello!"]},
    "/messages": ASK,
    "/chat": {"model": "tiny", "message": "Hello!", "max_tokens": 2},
    "/ollama/api/chat": {"model": "tiny", "messages": ASK["messages"], "stream": False, "options": {"num_predict": 2}},
    "/ollama/api/generate": {"model": "tiny", "prompt": "Once", "stream": False, "options": {"num_predict": 2}},
    "/ollama/api/embed": {"model": "tiny", "input": "Hello!"},
    "/ollama/api/embeddings": {"model": "tiny", "prompt": "Hello!"},
}
NO_STAY: Sequence[Any] = (0, "0", "0s", "-0", 0.5, 1e-9, "1ms", "0.9s")


class Place(NamedTuple):
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def url(self) -> str:
        return re.sub(r"\{\w+(:path)?\}", "nothing", self.path)


def places(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[Place]:
    """All that these routes answer. A route of a kind that is unknown here fails, so that nothing is overlooked."""
    for route in routes:
        if isinstance(route, Mount):
            yield from places(route.routes, prefix + route.path)
        elif isinstance(route, WebSocketRoute):
            yield Place("WEBSOCKET", prefix + route.path)
        elif isinstance(route, Route) and isinstance(route.endpoint, Starlette):
            yield from places(route.endpoint.routes, prefix)
        else:
            assert isinstance(route, Route) and route.methods, f"{route} answers nobody knows what"
            yield from (Place(method, prefix + route.path) for method in sorted(route.methods))


def all_places() -> list[Place]:
    with tempfile.TemporaryDirectory() as name:
        folder, settings = Path(name), Settings()
        store, library = Store(folder, catalog=Catalog.load()), TemplateLibrary(templates_folder())
        with closing(SessionStore(folder / "s.db")) as sessions, closing(Keyring(KeyStore(folder / "k.db"))) as keyring:
            service = Service(settings, store, sessions, ModelManager(store, settings), library)
            return sorted(set(places(create_app(service, Readiness(), keyring).routes)))


class Ports:
    """A server of two ports, and who asks it: at `main`, or at `ollama`, where the dialect has no prefix."""

    def __init__(self, home: Path) -> None:
        with closing(KeyStore(home / "keys.db")) as store:
            unlimited = {who: store.create(who, scope=scope) for who, scope in (("alice", "inference"), ("boss", "admin"))}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = LiveServer(home, "--ollama-port", str(port), "--model", "tiny")
        wait_until(lambda: self.server.http.get("/health").status_code == 200, "the model was loaded at start")
        self.secrets: dict[str, str | None] = {"nobody": None, "a stranger": "sk-myllm-wrong"} | unlimited
        self.urls = {"main": self.server.url, "ollama": f"http://127.0.0.1:{port}"}
        self.http = httpx.Client(timeout=EVENT_S)

    def ask(self, who: str, place: Place, port: str = "main", body: Any = None) -> int:
        """The status; a redirect's, where there is one."""
        url = self.urls[port] + (place.url if port == "main" else place.url.removeprefix("/ollama"))
        secret = self.secrets[who]
        if place.method == "WEBSOCKET":
            try:
                with connect(url.replace("http", "ws", 1), additional_headers={"x-api-key": secret} if secret else {}, proxy=None):
                    return 101
            except InvalidStatus as refused:
                return refused.response.status_code
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        with self.http.stream(place.method, url, headers=headers, content=json.dumps(body or {})) as response:
            return response.status_code


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    ports = Ports(tmp_path_factory.mktemp("home"))
    yield ports
    ports.server.stop()


PLACES = all_places()
AT = [*((place, "main") for place in PLACES), *((place, "ollama") for place in PLACES if place.path.startswith("/ollama/"))]
ids = [f"{place.method} {place.path} at {port}" for place, port in AT]


@pytest.mark.parametrize(("place", "port"), AT, ids=ids)
def test_a_route_is_served_to_those_who_may_have_it(place: Place, port: str, ports: Ports) -> None:
    statuses = {who: ports.ask(who, place, port) for who in ports.secrets}

    if place.path in PUBLIC:
        assert set(statuses.values()) == {200}
    elif str(place) in OF_AN_ACCOUNT:
        assert set(statuses.values()) == {401}
    else:
        assert (statuses["nobody"], statuses["a stranger"]) == (401, 401)
        assert (statuses["alice"] == 403) is (str(place) in ADMINS)
        assert statuses["alice"] != 401 and statuses["boss"] not in (401, 403)


def test_the_tables_name_nothing_that_is_not_there() -> None:
    assert {str(place) for place in PLACES} >= ADMINS | OF_AN_ACCOUNT
    assert {place.path for place in PLACES} >= PUBLIC


@pytest.mark.parametrize("path", ["/nothing", "/docs/", "/ui", "/health/", "/HEALTH", "//", "//health", "/health%2f", "/health%00"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_nowhere_is_401_without_a_key(path: str, method: str, ports: Ports) -> None:
    assert ports.ask("nobody", Place(method, path)) == 401


@pytest.mark.parametrize(
    "target",
    [
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/v1/../health",
        "//v1/models",
        "/ollama/../v1/models",
        "/ollama/api/version/../tags",
        "http://localhost/v1/models",
        "*",
        "/health;/v1/models",
        "/\\v1/models",
        "/ollama//",
        "/ollama%2fv1%2fmodels",
        "/v1/models#/health",
        "v1",
    ],
)
@pytest.mark.parametrize("port", ["main", "ollama"])
def test_no_way_of_writing_a_path_gets_around_the_key(target: str, port: str, ports: Ports) -> None:
    """As no client library would send it: the bytes stand in the request's line as they are."""
    address = ports.urls[port].removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), EVENT_S) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = raw.makefile("rb").readline()

    assert answer.split()[1] in (b"401", b"400")


def ways_to_say_how_long(ports: Ports) -> set[str]:
    """The paths whose bodies take `keep_alive`, as the reference has them."""
    api = httpx.get(ports.server.url + "/openapi.json", headers={"x-api-key": str(ports.secrets["boss"])}).json()

    def takes(schema: dict[str, Any]) -> bool:
        if "$ref" in schema:
            return takes(api["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return "keep_alive" in schema.get("properties", {}) or any(map(takes, schema.get("anyOf", [])))

    bodies = {
        path: operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for path, operations in api["paths"].items()
        for operation in operations.values()
    }
    return {path for path, schema in bodies.items() if takes(schema)} - {LOAD}


def body_for(path: str) -> dict[str, Any]:
    """Of the longest ending that the path has."""
    return BODIES[max((ending for ending in BODIES if path.endswith(ending)), key=len)]


def test_wherever_a_request_may_say_how_long_its_model_stays_only_an_admin_may_say_not_at_all(ports: Ports) -> None:
    places = [Place("POST", path) for path in sorted(ways_to_say_how_long(ports))]

    def ask(who: str, place: Place, stay: Any) -> int:
        return ports.ask(who, place, body=body_for(place.path) | {"keep_alive": stay})

    refused = {(place.path, stay): ask("alice", place, stay) for place in places for stay in NO_STAY}
    served = {place.path: ask("alice", place, "5m") for place in places if not EMBEDDERS_ONLY.fullmatch(place.path)}
    admins = {place.path: ask("boss", place, 0) for place in places if "/v1/" not in place.path}

    assert len(places) > 15
    assert {where: status for where, status in refused.items() if status != 403} == {}
    assert {where: status for where, status in (served | admins).items() if status != 200} == {}
