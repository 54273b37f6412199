"""`Running`: one `generate` or `chat` as it runs: its reply, and where the context is shifted the replies that go on with it.

A shift: the answer has filled the context and has not ended. What stands behind the first `num_keep` tokens loses its older
half, the rest is evaluated anew, and the answer goes on behind it. The lease is given back in between, so others get their turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from msgspec.structs import replace

from myllm.reply import Reply
from myllm.types import ChatRequest, CompletionRequest, Event, Finished, FinishReason, TokenLogprob, Usage

log = logging.getLogger("myllm.server")

Open = Callable[[CompletionRequest], AbstractAsyncContextManager[Reply]]
LONGEST_SHIFTED = 10  # contexts that an answer without a bound may fill, as in Ollama


class Running:
    """Iterate for lists of events, one a step; what has come so far is in `text`, `logprobs` and `usage`.

    context: the tokens of prompt and answer, once it has ended, where they were asked for. end_token: what ends a turn.
    """

    def __init__(
        self, stack: AsyncExitStack, reply: Reply, started: float, shift: Shift | None, wants_context: bool, end_token: int | None
    ) -> None:
        self.reply = reply
        self.context: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._stack = stack
        self._started = started
        self._first = reply  # what its prompt was and when it began are the whole answer's
        self._past: list[Reply] = []
        self._num_shifted = 0
        self._shift = shift
        self._wants_context = wants_context
        self._end_token = end_token

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        while self.finish_reason is None:
            async for events in self.reply:
                if self.reply.finish_reason is not None and not self._must_shift:
                    await self._end()
                told: list[Event] = [event for event in events if not isinstance(event, Finished)]
                if told or self.finish_reason is not None:
                    yield told
            if self.finish_reason is None:
                await self._go_on()

    async def finish(self) -> None:
        """Run to the end without streaming."""
        while True:
            await self.reply.finish()
            if not self._must_shift:
                break
            await self._go_on()
        await self._end()

    @property
    def _replies(self) -> list[Reply]:
        return [*self._past, self.reply]

    @property
    def text(self) -> str:
        return "".join(reply.text for reply in self._replies)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [token for reply in self._replies for token in reply.logprobs]

    @property
    def usage(self) -> Usage:
        first = self._first.usage
        return replace(first, completion_tokens=sum(reply.usage.completion_tokens for reply in self._replies))

    @property
    def truncated(self) -> tuple[int, int]:
        """Messages and tokens that were left out."""
        return self._first.rendered.truncated_messages, self._first.rendered.truncated_tokens + self._num_shifted

    @property
    def total_ns(self) -> int:
        return nanoseconds(time.monotonic() - self._started)

    @property
    def load_ns(self) -> int:
        """Until the model was there."""
        return nanoseconds(self._first.timing.leased - self._started)

    @property
    def prompt_ns(self) -> int:
        """From then to the first text: rendering, waiting for a slot and evaluating the prompt. The parent sees no finer."""
        return nanoseconds(self._first.timing.first - self._first.timing.leased)

    @property
    def eval_ns(self) -> int:
        return nanoseconds(self.reply.timing.ended - self._first.timing.first)

    @property
    def _must_shift(self) -> bool:
        return self._shift is not None and self.reply.finish_reason is FinishReason.LENGTH and self._num_left > 0

    @property
    def _num_left(self) -> int:
        """Tokens that the answer may still have. An answer that must shift has filled its first context: that is how large one is."""
        assert self._shift is not None
        longest = self._shift.max_tokens or LONGEST_SHIFTED * self._first.usage.total_tokens
        return longest - self.usage.completion_tokens

    async def _go_on(self) -> None:
        assert self._shift is not None
        token_ids = await self.reply.token_ids()
        kept, num_dropped = shifted(token_ids, self._shift.num_keep)
        whole = len(token_ids)
        log.info("model '%s': the context is full, the answer goes on without %d of its %d tokens", self.reply.model, num_dropped, whole)
        self._num_shifted += num_dropped
        await self._stack.aclose()  # a lease held while another is waited for would be in its way
        following = await self._stack.enter_async_context(self._shift.open_behind(kept, self._num_left))
        self._past.append(self.reply)
        self.reply = following

    async def _end(self) -> None:
        if self._wants_context and self.reply.finish_reason is not FinishReason.CANCELLED:  # or nobody is left who counts tokens
            self.context = await self.reply.token_ids()
            said_end = self.reply.finish_reason is FinishReason.STOP and self.reply.stop_string is None
            if said_end and self._end_token is not None:
                self.context.append(self._end_token)
        self.finish_reason = self.reply.finish_reason


class Shift:
    """How an answer goes on. max_tokens: of all of it; None is ten contexts. open: starts a reply to token ids."""

    def __init__(self, request: ChatRequest | CompletionRequest, open: Open, *, num_keep: int, max_tokens: int | None) -> None:
        self.num_keep = num_keep
        self.max_tokens = max_tokens
        self._request = request
        self._open = open

    def open_behind(self, token_ids: list[int], num_left: int) -> AbstractAsyncContextManager[Reply]:
        asked = self._request
        sampling = asked.sampling | {"max_tokens": num_left}
        return self._open(
            CompletionRequest(
                asked.model,
                tuple(token_ids),
                sampling,
                asked.keep_alive_s,
                context_size=asked.context_size,
                num_keep=self.num_keep,
                engine=asked.engine,
            )
        )


def shifted(token_ids: list[int], num_keep: int) -> tuple[list[int], int]:
    """Without the older half of what stands behind the first `num_keep`, and how many that were."""
    keep = min(num_keep, len(token_ids) // 2)
    num_dropped = max((len(token_ids) - keep) // 2, 1)
    return token_ids[:keep] + token_ids[keep + num_dropped :], num_dropped


@asynccontextmanager
async def running(
    reply: AbstractAsyncContextManager[Reply], started: float, shift: Shift | None = None, *, wants_context: bool, end_token: int | None
) -> AsyncIterator[Running]:
    """started: when the request came, by `time.monotonic`. shift: how to go on where the context is full; None: not at all."""
    async with AsyncExitStack() as stack:
        yield Running(stack, await stack.enter_async_context(reply), started, shift, wants_context, end_token)


def nanoseconds(seconds: float) -> int:
    """Never zero: what a client divides by it shall be a number."""
    return max(round(seconds * 1e9), 1)
