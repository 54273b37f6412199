"""Server-sent events and lines of JSON, and the client that may leave at any time: what every streaming dialect shares.

An exchange is a running task and a watch on the connection; whoever ends first ends the other. A stream sends all that
one engine step brought in one write, and a comment when there was nothing to say for a while, where its form has comments.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from myllm.errors import MyLLMError

log = logging.getLogger("myllm.server")

T = TypeVar("T")
S = TypeVar("S", bound=AsyncIterable[Any])

EVENTS, LINES = "text/event-stream; charset=utf-8", "application/x-ndjson"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
KEEPALIVE = b": keep-alive\n\n"
_encode = msgspec.json.Encoder().encode


class ClientLeft(Exception):
    """Nobody is there to answer to."""


def encode_event(content: Any) -> bytes:
    """One server-sent event that holds JSON."""
    return b"data: " + _encode(content) + b"\n\n"


def encode_named_event(event: msgspec.Struct) -> bytes:
    """A server-sent event that carries its type's tag as its name, by which SDKs tell it."""
    name = event.__struct_config__.tag
    assert isinstance(name, str)
    return b"event: " + name.encode() + b"\n" + encode_event(event)


def encode_line(content: Any) -> bytes:
    """One line of a stream of JSON objects."""
    return _encode(content) + b"\n"


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, cancelled as soon as the client leaves (then ClientLeft). The body must have been read."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        for pending in (watch, task):
            pending.cancel()
        await asyncio.wait((task, watch))  # cleaned up before we say so
        if not task.cancelled():
            task.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response, Generic[S]):
    """A source (a reply, a pull) as server-sent events, or as lines where that is the media type.

    open: the source's context, entered before the status is sent, so that its errors still have one.
    render: the source and what it yielded, as bytes; render_error: what ends a stream that broke.
    begin: what is sent at once, before the source yields anything. keepalive: what is sent after each silence; lines have
    nothing that could be. headers: further ones, known when the source is open.
    """

    def __init__(
        self,
        open: Callable[[], AbstractAsyncContextManager[S]],
        render: Callable[[S, Any], bytes],
        render_error: Callable[[MyLLMError], bytes],
        keepalive_s: float,
        *,
        begin: Callable[[S], bytes] | None = None,
        keepalive: bytes = KEEPALIVE,
        headers: Mapping[str, str] | Callable[[S], Mapping[str, str]] | None = None,
        media_type: str = EVENTS,
    ) -> None:
        self.background = None
        self._open = open
        self._render = render
        self._render_error = render_error
        self._keepalive_s = keepalive_s
        self._begin = begin
        self._keepalive = keepalive
        self._further = headers or {}
        self._media_type = media_type
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._stream(send))
        except ClientLeft:
            log.info("client left: %s", scope["path"])

    async def _stream(self, send: Send) -> None:
        async with self._open() as source:
            await send({"type": "http.response.start", "status": 200, "headers": self._head(source)})
            beat = asyncio.create_task(self._beat(send))
            try:
                if self._begin is not None:
                    await self._write(send, self._begin(source))
                async for events in source:
                    await self._write(send, self._render(source, events))
            except MyLLMError as error:
                await self._write(send, self._render_error(error))
            except Exception:
                log.exception("stream failed")
                await self._write(send, self._render_error(MyLLMError("internal error; the server's log has the details")))
            finally:
                beat.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self, source: S) -> list[tuple[bytes, bytes]]:
        given = self._further(source) if callable(self._further) else self._further
        head = {"content-type": self._media_type, **HEADERS, **given}
        return [(name.encode(), value.encode()) for name, value in head.items()]

    async def _write(self, send: Send, data: bytes) -> None:
        self._last_sent = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _beat(self, send: Send) -> None:
        """A sign of life after each `keepalive_s` of silence, so that proxies and clients keep the connection."""
        while self._media_type == EVENTS:
            await asyncio.sleep(self._keepalive_s)
            if time.monotonic() - self._last_sent >= self._keepalive_s:
                await self._write(send, self._keepalive)
