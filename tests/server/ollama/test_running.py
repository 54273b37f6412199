"""How a run ends: what the worker that is gone cannot be asked, and how often an answer without a bound is shifted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from myllm.errors import WorkerDied
from myllm.reply import Rendered
from myllm.server.ollama.running import LONGEST_SHIFTED, Running, Shift, running
from myllm.types import CompletionRequest, Event, Finished, FinishReason, TextDelta, Usage


class FakeReply:
    """Says "one" and ends. With `is_orphan` nobody is there any more who could count tokens."""

    model = "tiny"
    logprobs = ()
    stop_string = None

    def __init__(self, reason: FinishReason, usage: Usage, *, is_orphan: bool = False) -> None:
        self.text = ""
        self.rendered = Rendered()
        self.usage = Usage()
        self.finish_reason: FinishReason | None = None
        self._ending = Finished(reason, usage)
        self._is_orphan = is_orphan

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        await self.finish()
        yield [TextDelta("one"), self._ending]

    async def finish(self) -> None:
        self.text, self.usage, self.finish_reason = "one", self._ending.usage, self._ending.reason

    async def token_ids(self) -> list[int]:
        if self._is_orphan:
            raise WorkerDied("it is gone")
        return list(range(self.usage.total_tokens))


@asynccontextmanager
async def opened(reply: FakeReply) -> AsyncIterator[FakeReply]:
    yield reply


async def run(first: FakeReply, shift: Shift | None, *, streams: bool) -> Running:
    async with running(opened(first), 0.0, shift, wants_context=True, end_token=1) as run:  # type: ignore[arg-type]
        if streams:
            assert [event async for events in run for event in events]
        else:
            await run.finish()
    return run


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_whose_model_was_unloaded_ends_as_cancelled_without_a_context(streams: bool) -> None:
    ended = asyncio.run(run(FakeReply(FinishReason.CANCELLED, Usage(4, 1), is_orphan=True), None, streams=streams))

    assert (ended.finish_reason, ended.text, ended.context) == (FinishReason.CANCELLED, "one", [])


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_without_a_bound_fills_ten_contexts_of_the_size_that_it_had(streams: bool) -> None:
    bounds: list[int] = []

    def go_on(request: CompletionRequest) -> object:
        bounds.append(request.sampling["max_tokens"])
        return opened(FakeReply(FinishReason.LENGTH, Usage(20, 12)))

    shift = Shift(CompletionRequest("tiny", "one"), go_on, num_keep=4, max_tokens=None)  # type: ignore[arg-type]
    ended = asyncio.run(run(FakeReply(FinishReason.LENGTH, Usage(20, 12)), shift, streams=streams))

    assert bounds[0] == LONGEST_SHIFTED * 32 - 12 and bounds[-1] <= 12
    assert ended.finish_reason is FinishReason.LENGTH and ended.usage.completion_tokens >= LONGEST_SHIFTED * 32
