"""Server-sent events, and the client that may leave at any time: what every streaming dialect shares.

An exchange is a running task and a watch on the connection; whoever ends first ends the other. A stream sends all that
one engine step brought in one write, and a comment when there was nothing to say for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from myllm.errors import MyLLMError

log = logging.getLogger("myllm.server")

T = TypeVar("T")
S = TypeVar("S", bound=AsyncIterable[Any])

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientLeft(Exception):
    """Nobody is there to answer to."""


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
    """A source (a reply, a pull) as server-sent events.

    open: the source's context, entered before the status is sent, so that its errors still have one.
    render: the source and what it yielded, as bytes; render_error: what ends a stream that broke.
    """

    def __init__(
        self,
        open: Callable[[], AbstractAsyncContextManager[S]],
        render: Callable[[S, Any], bytes],
        render_error: Callable[[MyLLMError], bytes],
        keepalive_s: float,
    ) -> None:
        self.background = None
        self._open = open
        self._render = render
        self._render_error = render_error
        self._keepalive_s = keepalive_s
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._stream(send))
        except ClientLeft:
            log.info("client left: %s", scope["path"])

    async def _stream(self, send: Send) -> None:
        async with self._open() as source:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            beat = asyncio.create_task(self._beat(send))
            try:
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

    async def _write(self, send: Send, data: bytes) -> None:
        self._last_sent = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _beat(self, send: Send) -> None:
        """A comment after each `keepalive_s` of silence, so that proxies and clients keep the connection."""
        while True:
            await asyncio.sleep(self._keepalive_s)
            if time.monotonic() - self._last_sent >= self._keepalive_s:
                await self._write(send, b": keep-alive\n\n")
