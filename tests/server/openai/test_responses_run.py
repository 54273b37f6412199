"""`ResponseRun` where its client leaves at the worst moment. The running server is asked in test_responses*.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from myllm.caller import ANYBODY
from myllm.config import Settings
from myllm.server.openai.responses_bodies import ResponsesBody
from myllm.server.openai.responses_run import ResponseRun
from myllm.service import Service
from myllm.sessions import NewResponse
from myllm.types import FinishReason, Usage


class EndedReply:
    """A reply whose last token is there."""

    model = "tiny"
    text = "Hello!"
    finish_reason = FinishReason.STOP
    usage_so_far = Usage(3, 2)
    truncated_messages = 0
    logprobs = ()

    def on_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        self.end = callback


class SlowStore:
    """A service that stores a response when it is let."""

    settings = Settings()

    def __init__(self) -> None:
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.stored: list[NewResponse] = []

    @asynccontextmanager
    async def chat(self, *_: Any) -> AsyncIterator[EndedReply]:
        yield EndedReply()

    async def add_response(self, response: NewResponse, *_: Any) -> None:
        self.began.set()
        await self.go.wait()
        self.stored.append(response)


def test_a_response_is_stored_once_also_where_the_client_leaves_while_it_is_stored() -> None:
    """It was marked as kept before it was, and given up with the client."""

    async def run() -> list[NewResponse]:
        service = SlowStore()
        response = ResponseRun(cast(Service, service), ANYBODY, ResponsesBody(model="tiny", input="Hi"), None)

        async def stream() -> None:
            async with response.open() as reply:
                await cast(EndedReply, reply).end()

        streaming = asyncio.create_task(stream())
        await service.began.wait()
        streaming.cancel()
        service.go.set()
        with suppress(asyncio.CancelledError):
            await streaming
        return service.stored

    assert [response.answer.content for response in asyncio.run(run())] == ["Hello!"]
