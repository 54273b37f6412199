"""What the service hands to a dialect: a `Reply` that runs and grows, and `Choices`, several of them side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from myllm.errors import InvalidRequest, MyLLMError, WorkerDied
from myllm.spending import Spending
from myllm.types import Delta, Event, Finished, FinishReason, Prompt, PromptLogprobs, Span, TextDelta, TokenLogprob, Usage
from myllm.worker.handle import Generation

log = logging.getLogger("myllm.service")


@dataclass
class Rendered:
    """What became of a chat's messages in the prompt.

    truncated_messages: how many of the history it left out. opens_thought: it ends inside a thought, where the text begins.
    truncated_tokens: how many were cut out of what was left. prompt: what the worker was given.
    """

    truncated_messages: int = 0
    opens_thought: bool = False
    truncated_tokens: int = 0
    prompt: Prompt | list[int] = ()


@dataclass
class Timing:
    """When what happened to a reply, by `time.monotonic`: it was asked for, its model was there, its first and last token came."""

    asked: float = 0.0
    leased: float = 0.0
    first: float = 0.0
    ended: float = 0.0


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
        self.rendered = Rendered()
        self.timing = Timing()
        self.unfilled_suffix: str | None = None  # asked for of a model that cannot fill in: the dialect's to append
        self.finish_reason: FinishReason | None = None
        self.stop_string: str | None = None  # the one that ended it, where one did
        self.usage = Usage(generation.num_prompt_tokens)
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self.is_free = False  # its request was refused
        self.is_prompt_paid = False  # by another reply that has the same prompt, which is evaluated once
        self._restart = restart
        self._spending = spending
        self._pieces: list[str] = []
        self._is_streamed = True
        self._on_end: Callable[[], Awaitable[None]] | None = None
        self._follow(generation)

    def on_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await this once the last token is there, before the last events are handed out."""
        self._on_end = callback

    @property
    def truncated_messages(self) -> int:
        return self.rendered.truncated_messages

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def max_at_once(self) -> int:
        """So many answers its model takes at a time: those that run, and those that wait."""
        return self._generation.worker.max_requests

    @property
    def usage_so_far(self) -> Usage:
        """Of an answer that was cut short, what is known of it: its prompt, and a token for each delta that came."""
        if self.finish_reason is not None:
            return self.usage
        return Usage(self.usage.prompt_tokens, self._generation.num_deltas)

    @property
    def num_paid(self) -> int:
        """The tokens that its caller is charged for."""
        if self.is_free:
            return 0
        return self.usage_so_far.total_tokens - (self.usage.prompt_tokens if self.is_prompt_paid else 0)

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        while self.finish_reason is None:
            try:
                async for deltas in self._generation:
                    events = self._events(deltas)
                    if self.finish_reason is not None and self._on_end is not None:
                        await self._on_end()
                    yield events
            except WorkerDied as death:
                if self._restart is None or (self._pieces and self._is_streamed):
                    raise
                log.warning("%s; trying once more", death.message)
                restart, self._restart = self._restart, None
                self._pieces.clear()
                self.logprobs.clear()
                self._follow(await restart())

    async def token_ids(self) -> list[int]:
        """The tokens of the prompt and of the text so far, which is tokenised anew."""
        prompt, answer = self.rendered.prompt, Span(self.text, is_literal=True)
        if isinstance(prompt, tuple):
            return await self._generation.worker.tokenize((*prompt, answer))
        return [*prompt, *await self._generation.worker.tokenize((answer,), add_special=False)]

    async def finish(self) -> Finished:
        """Run to the end without streaming."""
        self._is_streamed = False
        async for _ in self:
            pass
        assert self.finish_reason is not None
        return Finished(self.finish_reason, self.usage)

    def _follow(self, generation: Generation) -> None:
        """Read this one. Its tokens are paid as they come, not as they are read: the worker does not wait for a slow reader."""
        self._generation = generation

        def grow() -> None:
            self._spending.grow(generation.num_prompt_tokens + generation.num_deltas, refuse)

        def refuse(error: MyLLMError) -> None:
            generation.cancel()
            generation.fail(error)

        if self._spending.is_counted:
            generation.on_delta = grow

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
                self.timing.first, self.timing.ended = self._generation.first_at, self._generation.last_at
                self.stop_string = delta.stop_string
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
    """All of these replies at once; where one is refused, none runs and none is paid.

    Raises InvalidRequest for more than the model ever takes at once.
    """
    replies: list[Reply] = []
    async with AsyncExitStack() as stack:
        try:
            for open in opens:
                reply = await stack.enter_async_context(open())
                reply.is_prompt_paid = bool(replies and reply.rendered.prompt) and replies[-1].rendered.prompt == reply.rendered.prompt
                replies.append(reply)
                if len(opens) > reply.max_at_once:
                    told = f"this asks for {len(opens):,} answers ('n' or 'best_of', for each prompt)"
                    limit = f"model '{reply.model}' takes {reply.max_at_once:,} at once, running and waiting"
                    raise InvalidRequest(f"{told}, {limit}; ask for fewer, or raise the setting queue_size", param="n")
        except MyLLMError:
            for reply in replies:
                reply.is_free = True
            raise
        yield Choices(replies)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
