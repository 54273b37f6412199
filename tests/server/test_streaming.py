"""A stream's form: events with signs of life between them, or lines, which have none; and headers that the source knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import Message

from myllm.errors import MyLLMError
from myllm.server.streaming import EVENTS, KEEPALIVE, LINES, EventStream, encode_line


class Source:
    """Yields one thing, once it may."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.num_beats = 0

    async def __aiter__(self) -> AsyncIterator[str]:
        for _ in range(5):
            await asyncio.sleep(0)  # so that whoever was started with us has begun
        self.num_beats = sum(getattr(task.get_coro(), "__name__", "") == "_beat" for task in asyncio.all_tasks())
        await self.may_go_on.wait()
        yield "said"


def sent(media_type: str, **how: Any) -> tuple[Source, dict[str, str], list[bytes]]:
    """What goes out: the headers, and each write until the source has been heard and, for events, a sign of life came."""

    async def run() -> tuple[Source, dict[str, str], list[bytes]]:
        source, messages = Source(), list[Message]()
        if media_type == LINES:
            source.may_go_on.set()

        @asynccontextmanager
        async def opened() -> AsyncIterator[Source]:
            yield source

        async def send(message: Message) -> None:
            messages.append(message)
            if message.get("body") == KEEPALIVE:
                source.may_go_on.set()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("nobody sends anything")

        def broken(error: MyLLMError) -> bytes:
            raise error

        stream = EventStream(opened, lambda source, said: encode_line(said), broken, 0.001, media_type=media_type, **how)
        async with asyncio.timeout(30):
            await stream({"type": "http", "path": "/"}, receive, send)
        head = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        return source, head, [message["body"] for message in messages[1:] if message["body"]]

    return asyncio.run(run())


def test_events_have_signs_of_life_between_them() -> None:
    source, head, writes = sent(EVENTS)

    assert source.num_beats == 1 and head["content-type"] == "text/event-stream; charset=utf-8"
    assert writes[0] == KEEPALIVE and writes[-1] == b'"said"\n'


def test_lines_have_none_for_every_line_is_json() -> None:
    source, head, writes = sent(LINES)

    assert source.num_beats == 0 and writes == [b'"said"\n']
    assert head == {"content-type": "application/x-ndjson", "cache-control": "no-cache", "x-accel-buffering": "no"}


def test_headers_may_be_known_only_once_the_source_is_open() -> None:
    _, told, _ = sent(LINES, headers=lambda source: {"x-beats": str(source.num_beats)})
    _, given, _ = sent(LINES, headers={"x-beats": "7"})

    assert (told["x-beats"], given["x-beats"]) == ("0", "7")
