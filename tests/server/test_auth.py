"""The keys' middleware before a small application, driven by hand: who is let in, who is counted, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Scope
from starlette.websockets import WebSocket

from myllm.caller import ANYBODY
from myllm.errors import InsufficientScope, MyLLMError
from myllm.keys import Keyring, KeyStore
from myllm.server.auth import Keys
from myllm.server.callers import caller_of, check_keep_alive, count_request, require_admin

Headers = Sequence[tuple[str, str]]
PATHS = ["/api/chat", "/v1/models", "/metrics", "/docs", "/openapi.json", "/ollama/api/tags", "/ui-of-others", "/healthy", "//health"]
PUBLIC = ["/", "/health", "/ollama", "/ollama/", "/ollama/api/version", "/ui/app.js"]


async def endpoint(request: Request) -> Response:
    caller = caller_of(request)
    return Response(f"{caller.name} {caller.scope} {caller.owner} {caller.budget is not None}")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        try:
            await count_request(websocket)
            await websocket.send_text(str(caller_of(websocket).name))
        except MyLLMError as error:
            await websocket.send_text(error.code)


def render(scope: Scope, error: MyLLMError) -> Response:
    retry_after = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return Response(f"{scope['path']}: {error.code}: {error.message}", error.status, retry_after)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with closing(KeyStore(tmp_path / "keys.db", clock=lambda: 1_800_000_000.0)) as opened:
        yield opened


@pytest.fixture
def serve(store: KeyStore) -> Iterator[Callable[..., Starlette]]:
    """The application with the keys that the store has now, and those given."""
    rings: list[Keyring] = []

    def make(*given: str) -> Starlette:
        rings.append(Keyring(store, given))
        keys = Middleware(Keys, keyring=rings[-1], render_error=render, public_prefixes=("/ui/",))
        routes = [Route("/{rest:path}", endpoint, methods=["GET", "POST", "DELETE", "OPTIONS", "PATCH"]), WebSocketRoute("/ws", socket)]
        return Starlette(routes=routes, middleware=[keys])

    yield make
    for ring in rings:
        ring.close()


class Answer:
    def __init__(self, messages: list[Message]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.text = b"".join(message["body"] for message in messages[1:]).decode()

    @property
    def limits(self) -> tuple[str | None, ...]:
        return tuple(self.headers.get(f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset"))


def scope_of(kind: str, path: str, headers: Headers, query: str = "", **more: Any) -> Scope:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": kind, "path": path, "headers": raw, "query_string": query.encode(), "root_path": "", "extensions": {}, **more}


def ask(app: Starlette, path: str = "/api/chat", headers: Headers = (), method: str = "GET", query: str = "") -> Answer:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope_of("http", path, headers, query, method=method), receive, send))
    return Answer(sent)


def converse(app: Starlette, *texts: str, headers: Headers = (), query: str = "", extensions: Sequence[str] = ()) -> list[Message]:
    """What a WebSocket's client is sent when it says these texts and leaves."""
    says: list[Message] = [{"type": "websocket.receive", "text": text} for text in texts]
    said = iter([{"type": "websocket.connect"}, *says, {"type": "websocket.disconnect", "code": 1000}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(said)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({**scope_of("websocket", "/ws", headers, query), "extensions": {name: {} for name in extensions}}, receive, send))
    return sent


def bearer(secret: str) -> Headers:
    return [("authorization", f"Bearer {secret}")]


@pytest.mark.parametrize("headers", [[], bearer("whatever")])
def test_without_any_key_everybody_is_let_in_as_anybody(headers: Headers, serve: Callable[..., Starlette]) -> None:
    answer = ask(serve(), headers=headers, method="POST")

    assert (answer.status, answer.text) == (200, f"{ANYBODY.name} admin None False")
    assert answer.limits == (None, None, None)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", PATHS)
def test_once_there_is_a_key_a_request_without_one_is_401_in_the_form_of_its_path(
    path: str, method: str, serve: Callable[..., Starlette]
) -> None:
    answer = ask(serve("secret"), path, method=method)

    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.text.startswith(f"{path}: invalid_api_key: this server needs an API key; send one as 'Authorization: Bearer KEY'")


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_may_be_read_without_a_key_and_not_written(path: str, serve: Callable[..., Starlette]) -> None:
    app = serve("secret")

    assert [ask(app, path, method=method).status for method in ("GET", "POST", "DELETE")] == [200, 401, 401]


def test_a_preflight_needs_no_key_and_what_only_looks_like_one_does(serve: Callable[..., Starlette]) -> None:
    app, origin, asked = serve("secret"), ("origin", "http://localhost"), ("access-control-request-method", "POST")

    assert [ask(app, headers=given, method="OPTIONS").status for given in ([origin, asked], [origin], [asked])] == [200, 401, 401]
    assert ask(app, headers=[origin, asked], method="POST").status == 401


@pytest.mark.parametrize(
    "headers",
    [
        bearer("secret"),
        [("authorization", "bearer   secret ")],
        [("x-api-key", "secret")],
        [("authorization", "Basic dXNlcg=="), ("x-api-key", "secret")],
        [*bearer("secret"), ("x-api-key", "other")],
    ],
)
def test_a_key_comes_as_bearer_or_as_x_api_key(headers: Headers, serve: Callable[..., Starlette]) -> None:
    answer = ask(serve("other-one", "secret"), headers=headers)

    assert (answer.status, answer.text) == (200, "api_keys admin None False")


@pytest.mark.parametrize(
    ("headers", "query"),
    [(bearer("wrong"), ""), (bearer("secre"), ""), (bearer("Secret"), ""), ([("x-api-key", "ü")], ""), ([("authorization", "secret")], ""),
     (bearer(""), ""), ([], "api_key=secret"), ([*bearer("wrong"), ("x-api-key", "secret")], "")],
)  # fmt: skip
def test_anything_else_is_no_key(headers: Headers, query: str, serve: Callable[..., Starlette]) -> None:
    answer = ask(serve("secret"), headers=headers, query=query)

    assert answer.status == 401
    assert "wrong" not in answer.text


def test_a_key_of_the_settings_may_be_any_text(serve: Callable[..., Starlette]) -> None:
    assert ask(serve("schlüssel, der zweite"), headers=bearer("schlüssel, der zweite")).status == 200


def test_the_caller_is_the_keys(serve: Callable[..., Starlette], store: KeyStore) -> None:
    alice, boss = store.create("alice", tpm=5), store.create("boss", scope="admin")
    app = serve()

    assert ask(app, headers=bearer(alice)).text == "alice inference alice True"
    assert ask(app, headers=bearer(boss)).text == "boss admin None False"


def test_what_works_counts_and_what_reads_does_not(serve: Callable[..., Starlette], store: KeyStore) -> None:
    key = bearer(store.create("alice", rpm=3))
    app = serve()

    answers = [ask(app, headers=key, method=method) for method in ("GET", "POST", "GET", "DELETE", "GET", "PATCH", "GET")]

    assert [answer.limits for answer in answers] == [("3", left, "1800000060") for left in ("3", "2", "2", "1", "1", "0", "0")]
    assert {answer.status for answer in answers} == {200}


def test_a_request_too_many_is_429_with_all_headers_and_reading_goes_on(serve: Callable[..., Starlette], store: KeyStore) -> None:
    key = bearer(store.create("alice", rpm=1))
    app = serve()
    ask(app, headers=key, method="POST")

    refused = ask(app, "/v1/completions", headers=key, method="POST")

    assert (refused.status, refused.limits, refused.headers["retry-after"]) == (429, ("1", "0", "1800000060"), "60")
    assert refused.text.startswith("/v1/completions: rate_limit_exceeded: key 'alice' has made its 1 requests of the minute")
    assert ask(app, headers=key).status == 200


def test_a_days_end_is_429_of_another_code(serve: Callable[..., Starlette], store: KeyStore) -> None:
    key = bearer(store.create("alice", rpm=9, rpd=1))
    app = serve()
    ask(app, headers=key, method="POST")

    refused = ask(app, headers=key, method="POST")

    assert (refused.status, refused.headers["retry-after"], refused.limits) == (429, "86400", ("9", "8", "1800000060"))
    assert "insufficient_quota" in refused.text


def test_a_key_without_a_limit_of_requests_gets_no_headers_of_it(serve: Callable[..., Starlette], store: KeyStore) -> None:
    key = bearer(store.create("alice", tpm=10, rpd=10))

    assert ask(serve(), headers=key, method="POST").limits == (None, None, None)


def test_counts_that_cannot_be_kept_are_503(serve: Callable[..., Starlette], store: KeyStore) -> None:
    key = bearer(store.create("alice", rpm=1))
    app = serve()
    store.close()

    assert ask(app, headers=key, method="POST").status == 503
    assert ask(app, headers=key).status == 503


def test_a_websocket_takes_its_key_from_headers_or_the_query(serve: Callable[..., Starlette], store: KeyStore) -> None:
    secret = store.create("alice")
    app = serve()
    ways: list[dict[str, Any]] = [{"headers": bearer(secret)}, {"headers": [("x-api-key", secret)]}, {"query": f"a=1&api_key={secret}"}]

    for way in ways:
        accepted, told = converse(app, "hello", **way)[:2]

        assert (accepted["type"], told["text"]) == ("websocket.accept", "alice")


@pytest.mark.parametrize("query", ["", "api_key=", "api_key=wrong"])
def test_a_websocket_without_a_key_is_refused_before_it_opens(query: str, serve: Callable[..., Starlette]) -> None:
    app = serve("secret")

    closed = converse(app, query=query)
    denied = converse(app, query=query, extensions=["websocket.http.response"])

    assert [message["type"] for message in closed] == ["websocket.close"]
    assert closed[0]["code"] == 1008 and "API key" in closed[0]["reason"]
    assert (denied[0]["type"], denied[0]["status"]) == ("websocket.http.response.start", 401)
    assert b"?api_key=KEY" in denied[1]["body"]


def test_each_message_of_a_websocket_counts_and_its_handshake_does_not(serve: Callable[..., Starlette], store: KeyStore) -> None:
    secret = store.create("alice", rpm=2)

    sent = converse(serve(), "one", "two", "three", headers=bearer(secret))

    assert [message["text"] for message in sent if message["type"] == "websocket.send"] == ["alice", "alice", "rate_limit_exceeded"]


def test_an_open_websocket_of_a_revoked_key_serves_no_more(serve: Callable[..., Starlette], store: KeyStore) -> None:
    secret = store.create("alice")
    store.create("bob")
    app = serve()
    store.revoke("alice")  # the ring has not looked again, so the handshake passes

    sent = converse(app, "one", headers=bearer(secret))

    assert [message["text"] for message in sent if message["type"] == "websocket.send"] == ["invalid_api_key"]


def test_without_keys_a_message_of_a_websocket_costs_nothing(serve: Callable[..., Starlette]) -> None:
    assert converse(serve(), "one")[1]["text"] == "None"


def test_a_key_of_scope_inference_may_not_do_an_admins_work(store: KeyStore) -> None:
    with closing(Keyring(store, ["given"])) as ring:
        store.create("alice")
        callers = [ring.caller(key) for key in (*asyncio.run(ring.keys()), *store.list())]
    admin, alice, anybody = (
        Request({**scope_of("http", "/", []), **more}) for more in ({"caller": callers[0]}, {"caller": callers[1]}, {})
    )

    for allowed in (admin, anybody):
        require_admin(allowed, "pull models")
        check_keep_alive(allowed, 0)
    with pytest.raises(InsufficientScope, match="the key 'alice' has the scope 'inference' and may not pull models"):
        require_admin(alice, "pull models")


@pytest.mark.parametrize(
    ("keep_alive_s", "may"), [(None, True), (300.0, True), (1.0, True), (float("inf"), True), (0.0, False), (0.001, False)]
)
def test_leaving_a_model_no_time_to_stay_is_an_admins(keep_alive_s: float | None, may: bool, store: KeyStore) -> None:
    store.create("alice")
    with closing(Keyring(store)) as ring:
        request = Request({**scope_of("http", "/", []), "caller": ring.caller(store.list()[0])})

    if may:
        check_keep_alive(request, keep_alive_s)
    else:
        with pytest.raises(InsufficientScope, match="unload models"):
            check_keep_alive(request, keep_alive_s)
