"""What the service hands to a dialect: a `Reply` that runs and grows, and `Choices`, several of them side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from myllm.errors import WorkerDied
from myllm.spending import Spending
from myllm.types import Delta, Event, Finished, FinishReason, PromptLogprobs, TextDelta, TokenLogprob, Usage
from myllm.worker.handle import Generation

log = logging.getLogger("myllm.service")


class Reply:
    """A running generation: iterate for lists of events, one list for all that a step (or several) brought.

    `text`, `logprobs`, `finish_reason` and `usage` grow as it is iterated. A worker that dies before anything was streamed
    is replaced once, unseen; later than that, WorkerDied is raised to the reader. Who asks for the whole with `finish` has
    seen nothing until the end, so there the answer begins anew.
    """

    def __init__(
        self,
        model: str,
        generation: Generation,
        restart: Callable[[], Awaitable[Generation]] | None,
        spending: Spending,
    ) -> None:
        self.model = model
        self.session_id: str | None = None
        self.truncated_messages = 0
        self.unfilled_suffix: str | None = None  # asked for of a model that cannot fill in: the dialect's to append
        self.finish_reason: FinishReason | None = None
        self.usage = Usage(generation.num_prompt_tokens)
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self._generation = generation
        self._restart = restart
        self._spending = spending
        self._pieces: list[str] = []
        self._is_streamed = True
        self._on_end: Callable[[], Awaitable[None]] | None = None

    def on_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await this once the last token is there, before the last events are handed out."""
        self._on_end = callback

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def usage_so_far(self) -> Usage:
        """Of an answer that was cut short, what is known of it: its prompt, and a token for each delta that came."""
        if self.finish_reason is not None:
            return self.usage
        return Usage(self.usage.prompt_tokens, self._generation.num_deltas)

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        while self.finish_reason is None:
            try:
                async for deltas in self._generation:
                    events = self._events(deltas)
                    if self.finish_reason is not None:
                        if self._on_end is not None:
                            await self._on_end()
                    elif self._spending.is_counted:
                        await self._spending.cover(self.usage_so_far.total_tokens)
                    yield events
            except WorkerDied as death:
                if self._restart is None or (self._pieces and self._is_streamed):
                    raise
                log.warning("%s; trying once more", death.message)
                restart, self._restart = self._restart, None
                self._pieces.clear()
                self.logprobs.clear()
                self._generation = await restart()

    async def finish(self) -> Finished:
        """Run to the end without streaming."""
        self._is_streamed = False
        async for _ in self:
            pass
        assert self.finish_reason is not None
        return Finished(self.finish_reason, self.usage)

    def _events(self, deltas: list[Delta]) -> list[Event]:
        events: list[Event] = []
        for delta in deltas:
            if delta.prompt_logprobs:
                self.prompt_logprobs = delta.prompt_logprobs
                events.append(PromptLogprobs(delta.prompt_logprobs))
            if delta.text or delta.logprobs:
                self._pieces.append(delta.text)
                self.logprobs.extend(delta.logprobs)
                events.append(TextDelta(delta.text, delta.logprobs))
            if delta.finish is not None:
                self.finish_reason, self.usage = delta.finish, delta.usage or self.usage
                events.append(Finished(self.finish_reason, self.usage))
        return events


class Choices:
    """The replies to one request that asked for several: `n`, `best_of`, a batch of prompts. In the order of `replies`.

    Iterate for lists of (index, event), all that came since the last look. A reply that breaks ends them all.
    """

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies = replies

    @property
    def model(self) -> str:
        return self.replies[0].model

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Event]]]:
        if len(self.replies) == 1:
            async for events in self.replies[0]:
                yield [(0, event) for event in events]
            return
        arrived: list[tuple[int, Event]] = []
        news = asyncio.Event()

        async def read(index: int, reply: Reply) -> None:
            async for events in reply:
                arrived.extend((index, event) for event in events)
                news.set()

        readers = [asyncio.ensure_future(read(index, reply)) for index, reply in enumerate(self.replies)]
        for reader in readers:
            reader.add_done_callback(lambda _: news.set())
        try:
            while arrived or not all(reader.done() for reader in readers):
                await news.wait()
                news.clear()
                fresh, arrived = arrived, []
                if fresh:
                    yield fresh
                for reader in readers:
                    if reader.done():
                        reader.result()
        finally:
            await _end(readers)

    async def finish(self) -> None:
        """Run all to the end without streaming. Raises what broke the first that broke."""
        if len(self.replies) == 1:
            await self.replies[0].finish()
            return
        tasks = [asyncio.ensure_future(reply.finish()) for reply in self.replies]
        try:
            await asyncio.gather(*tasks)
        finally:
            await _end(tasks)


@asynccontextmanager
async def together(opens: Sequence[Callable[[], AbstractAsyncContextManager[Reply]]]) -> AsyncIterator[Choices]:
    """All of these replies at once; where one is refused, none runs."""
    async with AsyncExitStack() as stack:
        yield Choices([await stack.enter_async_context(open()) for open in opens])


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
