"""`Choices`: several replies read side by side, and what becomes of them when one breaks or the reader leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from myllm.errors import EngineFault
from myllm.reply import Choices
from myllm.types import Event, Finished, FinishReason, TextDelta, Usage

END = Finished(FinishReason.STOP, Usage(1, 2))


class ScriptedReply:
    """A reply that tells its lines when it is let; an exception among them is raised."""

    def __init__(self, *script: Event | Exception) -> None:
        self.script = script
        self.go = asyncio.Event()
        self.is_closed = False
        self.model = "tiny"

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        try:
            for line in self.script:
                await self.go.wait()
                if isinstance(line, Exception):
                    raise line
                yield [line]
        finally:
            self.is_closed = True

    async def finish(self) -> None:
        async for _ in self:
            pass


async def read(choices: Choices) -> list[tuple[int, Event]]:
    return [pair async for pairs in choices for pair in pairs]


def test_the_events_of_all_replies_come_with_their_index_and_in_their_order():
    async def run() -> list[tuple[int, Event]]:
        replies = [ScriptedReply(TextDelta("a"), TextDelta("b"), END), ScriptedReply(TextDelta("c"), END)]
        for reply in replies:
            reply.go.set()
        return await read(Choices(replies))

    events = asyncio.run(run())

    assert [event for index, event in events if index == 0] == [TextDelta("a"), TextDelta("b"), END]
    assert [event for index, event in events if index == 1] == [TextDelta("c"), END]


def test_a_reply_that_is_slow_holds_up_nobody():
    async def run() -> tuple[int, Event]:
        slow, quick = ScriptedReply(TextDelta("late"), END), ScriptedReply(TextDelta("soon"), END)
        quick.go.set()
        async for events in Choices([slow, quick]):
            return events[0]
        raise AssertionError

    assert asyncio.run(run()) == (1, TextDelta("soon"))


@pytest.mark.parametrize("way", ["streamed", "whole"])
def test_one_that_breaks_ends_them_all_with_its_error(way):
    async def run() -> list[bool]:
        broken, waiting = ScriptedReply(EngineFault("NaN")), ScriptedReply(TextDelta("never"), END)
        broken.go.set()
        choices = Choices([waiting, broken])
        with pytest.raises(EngineFault, match="NaN"):
            await (read(choices) if way == "streamed" else choices.finish())
        return [waiting.is_closed, broken.is_closed]

    assert asyncio.run(run()) == [True, True]


def test_a_reader_that_leaves_ends_them_all():
    async def run() -> list[bool]:
        replies = [ScriptedReply(TextDelta("a"), TextDelta("b"), END), ScriptedReply(TextDelta("c"), TextDelta("d"), END)]
        replies[0].go.set()
        stream = aiter(Choices(replies))
        await anext(stream)
        await stream.aclose()
        return [reply.is_closed for reply in replies]

    assert asyncio.run(run()) == [True, True]
