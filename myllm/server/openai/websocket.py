"""The WebSocket at `/chat/completions`: each text message is a request, answered by its chunks and then `{"done": true}`.

Requests of one socket run one after the other, in their order, however fast they were sent. Closing the socket stops the
running one and drops those that wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from myllm.errors import InvalidRequest, MyLLMError
from myllm.server.callers import count_request
from myllm.server.openai.errors import ErrorForm
from myllm.server.openai.requests import Requests
from myllm.server.readiness import answering

log = logging.getLogger("myllm.access")
bugs = logging.getLogger("myllm.server")

MAX_WAITING = 64  # requests of one socket
POLICY_VIOLATION, TOO_BIG = 1008, 1009
DONE = '{"done":true}'


class Waiting:
    """The texts of the messages that wait, None for a binary one, in their order; bounded in number, and in bytes together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._texts: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)

    def put(self, text: bytes | None) -> bool:
        """False where it may not wait."""
        num_bytes = self._num_bytes + len(text or b"")
        if self._texts.full() or num_bytes > self._max_bytes:
            return False
        self._num_bytes = num_bytes
        self._texts.put_nowait(text)
        return True

    async def take(self) -> bytes | None:
        text = await self._texts.get()
        self._num_bytes -= len(text or b"")
        return text


class ChatSocket:
    """One route; `serve` runs once a socket."""

    def __init__(self, requests: Requests, form: ErrorForm) -> None:
        self.requests = requests
        self.form = form
        self._max_bytes = requests.service.settings.max_body_bytes

    async def serve(self, socket: WebSocket) -> None:
        await socket.accept()
        waiting = Waiting(self._max_bytes)
        answers = asyncio.create_task(self._answer_all(socket, waiting))
        try:
            close_code = await self._receive_all(socket, waiting)
        finally:
            answers.cancel()
            await asyncio.wait((answers,))  # its sequences are gone before we are
        if close_code is not None:
            with suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(close_code)

    async def _receive_all(self, socket: WebSocket, waiting: Waiting) -> int | None:
        """Until the client leaves (None), or has to: then the code to close with."""
        while True:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                return None
            text = message.get("text")
            content = message["bytes"] if text is None else text.encode()
            if len(content) > self._max_bytes:
                return TOO_BIG
            if not waiting.put(None if text is None else content):
                return POLICY_VIOLATION

    async def _answer_all(self, socket: WebSocket, waiting: Waiting) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                content = await waiting.take()
                started, error = time.monotonic(), None
                try:
                    with answering(socket):
                        await self._answer(socket, content)
                except MyLLMError as problem:
                    error = problem
                except WebSocketDisconnect:
                    raise
                except Exception:
                    bugs.exception("a request of a WebSocket failed")
                    error = MyLLMError("internal error; the server's log has the details")
                if error is not None:
                    await socket.send_text(self.form.encode(error).decode())
                await socket.send_text(DONE)
                status, ms = error.status if error else 200, (time.monotonic() - started) * 1000
                log.info("WEBSOCKET %s %s %.0f ms", socket.scope["path"], status, ms)

    async def _answer(self, socket: WebSocket, content: bytes | None) -> None:
        await count_request(socket)
        if content is None:
            raise InvalidRequest("a binary message is no request; send the JSON as text")
        job, streams = await self.requests.chat(content, socket, streams=True)
        if not streams:
            await socket.send_text(msgspec.json.encode(await job.finish()).decode())
            return
        async with job.open() as choices:
            async for events in choices:
                for chunk in job.chunks(choices, events):
                    await socket.send_text(chunk.decode())
