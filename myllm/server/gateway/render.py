"""What the gateway answers: a reply, whole or as events, with the model's thoughts told apart from its response. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from msgspec import UNSET

from myllm.chat.thoughts import ThoughtSplitter, split_thoughts
from myllm.reply import Reply
from myllm.server.gateway.bodies import ChatAnswer, LastEvent, UsageBody
from myllm.server.streaming import encode_event
from myllm.types import Event, Finished, TextDelta

_encode = msgspec.json.Encoder().encode


class Told:
    """A running reply as pieces of bytes: iterate for what each step brought. splitter: None where the model cannot think."""

    def __init__(self, reply: Reply, splitter: ThoughtSplitter | None) -> None:
        self._reply = reply
        self._splitter = splitter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for events in self._reply:
            yield b"".join(map(self._render, events))

    def _render(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return _render_piece("", event.text) if self._splitter is None else _render_piece(*self._splitter.feed(event.text))
        if isinstance(event, Finished):
            last = b"" if self._splitter is None else _render_piece(*self._splitter.flush())
            answer = render_chat(self._reply, can_think=self._splitter is not None)
            return last + encode_event(LastEvent(True, answer.response, answer.model, answer.usage, answer.reasoning))
        return b""


def render_chat(reply: Reply, *, can_think: bool) -> ChatAnswer:
    thoughts, text = split_thoughts(reply.text, is_open=reply.rendered.opens_thought) if can_think else ("", reply.text)
    usage = UsageBody(reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens)
    return ChatAnswer(text, reply.model, usage, thoughts or UNSET)


def _render_piece(thought: str, text: str) -> bytes:
    """What one delta brought, each kind in an event of its own; nothing where it was held back."""
    thinking = b'data: {"token":"","reasoning":' + _encode(thought) + b',"done":false}\n\n' if thought else b""
    return thinking + (b'data: {"token":' + _encode(text) + b',"done":false}\n\n' if text else b"")
