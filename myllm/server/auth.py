"""`Keys`, the middleware that asks for API keys and counts requests. What endpoints ask of it is in `callers`.

While no key is configured it does nothing. Once there is one, all but a few public paths need a key, each request but GET
and HEAD counts against the key's limits, whatever becomes of it (a WebSocket's messages do, its handshake does not), and
the answers to a key with a limit of requests a minute carry X-RateLimit headers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from myllm.errors import MyLLMError, RateLimited, Unauthorized
from myllm.keys import Key, Keyring, Standing, find

PUBLIC_PATHS = frozenset({"/", "/health", "/ollama", "/ollama/", "/ollama/api/version"})
READS = ("GET", "HEAD")
POLICY_VIOLATION = 1008  # the WebSocket close code for "not allowed"

RenderError = Callable[[Scope, MyLLMError], Response]


class Keys:
    """Refuses with 401 and 429; leaves in the scope who calls.

    public_paths, public_prefixes: what may be read without a key. render_error: in the form of the path's dialect.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        render_error: RenderError,
        public_paths: Collection[str] = PUBLIC_PATHS,
        public_prefixes: tuple[str, ...] = (),
    ) -> None:
        self.app = app
        self.keyring = keyring
        self.render_error = render_error
        self.public_paths = public_paths
        self.public_prefixes = public_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = () if scope["type"] not in ("http", "websocket") or self._is_public(scope) else await self.keyring.keys()
        if not keys:
            await self.app(scope, receive, send)
            return
        try:
            key = authenticate(scope, keys)
        except Unauthorized as error:
            await self._refuse(error, scope, receive, send)
            return
        scope["caller"] = self.keyring.caller(key)
        scope["count_request"] = lambda: self.keyring.take_request(key)
        if scope["type"] == "http":
            await self._serve(key, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        ask = self.keyring.standing if scope["method"] in READS else self.keyring.take_request
        try:
            standing = await ask(key)
        except RateLimited as error:
            await self._refuse(error, scope, receive, _with_headers(send, await self.keyring.standing(key)))
        except MyLLMError as error:
            await self._refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send, standing))

    async def _refuse(self, error: MyLLMError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": error.message[:120]})
            return
        response = self.render_error(scope, error)
        if error.status == 401:
            response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        """What is read without a key, and preflights: those carry none, and the CORS middleware answers them all."""
        if scope["type"] == "websocket":
            return False
        if scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            return "origin" in headers and "access-control-request-method" in headers
        path = scope["path"]
        return scope["method"] in READS and (path in self.public_paths or path.startswith(self.public_prefixes))


def authenticate(scope: Scope, keys: Collection[Key]) -> Key:
    """The key that a request or WebSocket was sent with. Raises Unauthorized."""
    how = "send one as 'Authorization: Bearer KEY' or as 'X-Api-Key: KEY'"
    if scope["type"] == "websocket":
        how += ", or as '?api_key=KEY'"
    secret = next(sent_secrets(scope), None)
    if secret is None:
        raise Unauthorized(f"this server needs an API key; {how}")
    key = find(secret, keys)
    if key is None:
        raise Unauthorized(f"the API key that was sent is none of this server's, or was revoked; {how}")
    return key


def sent_secrets(scope: Scope) -> Iterator[bytes]:
    """The secrets that came along, the first one counts; as bytes, for a header may hold any."""
    headers = Headers(scope=scope)
    kind, _, credentials = headers.get("authorization", "").partition(" ")
    written = [credentials if kind.lower() == "bearer" else "", headers.get("x-api-key", "")]
    yield from (secret.strip().encode("latin-1") for secret in written if secret.strip())
    if scope["type"] == "websocket":  # a browser's WebSocket cannot send headers
        yield from (secret.encode() for secret in parse_qs(scope["query_string"].decode("latin-1")).get("api_key", []))


def _with_headers(send: Send, standing: Standing | None) -> Send:
    """`send`, adding to the answer how the key stands."""
    if standing is None:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in zip(("limit", "remaining", "reset"), standing, strict=True):
                headers[f"x-ratelimit-{name}"] = str(value)
        await send(message)

    return send_with_headers
