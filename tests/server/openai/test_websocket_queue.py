"""What may wait on one socket, without a network: the bound is on what waits, and not on what has waited."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from starlette.websockets import WebSocket

from myllm.errors import InvalidRequest
from myllm.server.openai.errors import OPENAI_FORM
from myllm.server.openai.requests import Requests
from myllm.server.openai.websocket import ChatSocket
from myllm.server.readiness import Readiness

MAX_BYTES = 20
LEAVES = {"type": "websocket.disconnect"}


class ScriptedSocket:
    """A socket whose messages come when the test puts them in; `inbox.join` waits until all were taken and dealt with."""

    def __init__(self) -> None:
        self.scope = {"path": "/v1/chat/completions", "readiness": Readiness("healthy")}
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.close_code: int | None = None
        self._is_dealing = False

    async def accept(self) -> None:
        pass

    async def receive(self) -> dict[str, Any]:
        if self._is_dealing:
            self.inbox.task_done()
        self._is_dealing = False
        message = await self.inbox.get()
        self._is_dealing = True
        return message

    async def send_text(self, text: str) -> None:
        pass

    async def close(self, code: int) -> None:
        self.close_code = code
        while True:  # nobody takes what comes later
            self.inbox.task_done()
            await self.inbox.get()


class SlowRequests:
    """Each request is refused when it is let; `begun` counts those that were begun."""

    service = SimpleNamespace(settings=SimpleNamespace(max_body_bytes=MAX_BYTES))

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def chat(self, *_: Any, **__: Any) -> None:
        self.begun.release()
        await self.go.acquire()
        raise InvalidRequest("this one is no request")


async def served(sizes: list[int], most_waiting: int) -> int | None:
    """Messages of these sizes, of which so many wait while one is answered; the code that the socket was closed with."""
    socket, requests = ScriptedSocket(), SlowRequests()
    serving = asyncio.create_task(ChatSocket(cast(Requests, requests), OPENAI_FORM).serve(cast(WebSocket, socket)))
    for place, size in enumerate(sizes):
        socket.inbox.put_nowait({"type": "websocket.receive", "text": "x" * size})
        await socket.inbox.join()
        if place == 0:
            await requests.begun.acquire()
        if place >= most_waiting and socket.close_code is None:
            requests.go.release()
            await requests.begun.acquire()
    socket.inbox.put_nowait(LEAVES)
    if socket.close_code is not None:
        serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return socket.close_code


def test_a_socket_that_is_kept_busy_may_say_more_in_all_than_may_wait_at_once() -> None:
    """Bytes that had waited counted as waiting until nothing waited any more."""
    assert asyncio.run(served([8] * 10, most_waiting=2)) is None


def test_more_bytes_than_a_body_may_have_close_the_socket_where_they_wait_at_once() -> None:
    assert asyncio.run(served([8] * 5, most_waiting=4)) == 1008
