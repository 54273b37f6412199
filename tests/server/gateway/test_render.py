"""A model that opens its thought itself, as Qwen3 does: what the gateway makes of its pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from myllm.chat.thoughts import ThoughtSplitter
from myllm.reply import Rendered
from myllm.server.gateway.render import Told, render_chat
from myllm.types import Event, Finished, FinishReason, TextDelta, Usage


class FakeReply:
    """Says these pieces, one a step."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.model = "thinker"
        self.rendered = Rendered()
        self.usage = Usage(3, len(pieces))
        self.text = "".join(pieces)

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        for piece in self.pieces:
            yield [TextDelta(piece)]
        yield [Finished(FinishReason.STOP, self.usage)]


async def told(reply: FakeReply, splitter: ThoughtSplitter | None) -> list[dict[str, object]]:
    sent = b"".join([part async for part in Told(reply, splitter)])  # type: ignore[arg-type]
    return [json.loads(event.removeprefix(b"data: ")) for event in sent.split(b"\n\n")[:-1]]


def test_thoughts_and_response_are_events_of_their_own() -> None:
    reply = FakeReply("<th", "ink>\n", "hm", "\n</think>", "\n\nHi", "!")

    *events, last = asyncio.run(told(reply, ThoughtSplitter()))

    assert events == [
        {"token": "", "reasoning": "hm", "done": False},
        {"token": "Hi", "done": False},
        {"token": "!", "done": False},
    ]
    assert (last["response"], last["reasoning"]) == ("Hi!", "hm")


def test_what_was_held_back_is_told_before_the_last_event() -> None:
    *events, last = asyncio.run(told(FakeReply("1 ", "<thi"), ThoughtSplitter()))
    *thought, end = asyncio.run(told(FakeReply("<think>1 ", "</thi"), ThoughtSplitter()))

    assert "".join(str(event["token"]) for event in events) == last["response"] == "1 <thi"
    assert "".join(str(event["reasoning"]) for event in thought) == end["reasoning"] == "1 </thi"


def test_where_the_model_cannot_think_tags_are_text() -> None:
    reply = FakeReply("<think>", "hm</think>")

    *events, last = asyncio.run(told(reply, None))

    assert [event["token"] for event in events] == ["<think>", "hm</think>"]
    assert last["response"] == "<think>hm</think>" and "reasoning" not in last


def test_an_answer_that_begins_inside_a_thought_is_split_where_the_prompt_opened_it() -> None:
    reply = FakeReply("hm</think>Hi")
    reply.rendered.opens_thought = True

    answer = render_chat(reply, can_think=True)  # type: ignore[arg-type]

    assert (answer.reasoning, answer.response) == ("hm", "Hi")
