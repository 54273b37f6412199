"""What the Anthropic dialect answers: a reply as one message, or as the events that one is built up from. No I/O.

`MessageStream` is one answer's events: it knows the message's id, and that a text block was begun.
"""

from __future__ import annotations

import uuid
from typing import Literal

import msgspec
from msgspec import Struct

from myllm.errors import MyLLMError, Unavailable
from myllm.reply import Reply
from myllm.server.anthropic.errors import ErrorBody, error_body
from myllm.server.streaming import encode_named_event
from myllm.types import Event, FinishReason, TextDelta, Usage

_encode = msgspec.json.Encoder().encode

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "model_context_window_exceeded"]


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str


class UsageBody(Struct):
    """The prompt's tokens are all three inputs together: as Anthropic counts, `input_tokens` leaves out those that were cached."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class MessageBody(Struct, tag_field="type", tag="message", kw_only=True):
    """`stop_reason` is null only in the first event of a stream."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: UsageBody


class TokenCount(Struct):
    input_tokens: int


class MessageStart(Struct, tag_field="type", tag="message_start"):
    message: MessageBody


class ContentBlockStart(Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: TextBlock


class Ping(Struct, tag_field="type", tag="ping"):
    """Sent once a block was begun, and after each silence: the connection lives."""


class TextPiece(Struct, tag_field="type", tag="text_delta"):
    text: str


class ContentBlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextPiece


class ContentBlockStop(Struct, tag_field="type", tag="content_block_stop"):
    index: int


class Ending(Struct):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    """How the message ended, and the usage of all of it."""

    delta: Ending
    usage: UsageBody


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    pass


StreamEvent = (
    MessageStart | ContentBlockStart | Ping | ContentBlockDelta | ContentBlockStop | MessageDelta | MessageStop | ErrorBody
)  # fmt: skip


PING = encode_named_event(Ping())
_TEXT_BEGIN = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
_TEXT_END = b"}}\n\n"


class MessageStream:
    """The events of one answer, in Anthropic's order; all text is in one block.

    max_tokens: what was asked for, to tell a full context from a limit reached.
    """

    def __init__(self, max_tokens: int, request_id: str) -> None:
        self._max_tokens = max_tokens
        self._request_id = request_id

    def begin(self, reply: Reply) -> bytes:
        """Before the first token; how much of the prompt was cached is not known yet."""
        message = MessageBody(id=new_id(), model=reply.model, content=[], usage=UsageBody(reply.usage.prompt_tokens, 0))
        return encode_named_event(MessageStart(message)) + encode_named_event(ContentBlockStart(0, TextBlock(""))) + PING

    def render(self, reply: Reply, events: list[Event]) -> bytes:
        return b"".join(self._event(reply, event) for event in events)

    def render_error(self, error: MyLLMError) -> bytes:
        return encode_named_event(error_body(error, self._request_id))

    def _event(self, reply: Reply, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return _TEXT_BEGIN + _encode(event.text) + _TEXT_END
        if reply.finish_reason is None:
            return b""
        if reply.finish_reason is FinishReason.CANCELLED:
            return self.render_error(cut_off(reply))
        end = MessageDelta(ending(reply, self._max_tokens), render_usage(reply.usage))
        return encode_named_event(ContentBlockStop(0)) + encode_named_event(end) + encode_named_event(MessageStop())


def render_message(reply: Reply, max_tokens: int) -> MessageBody:
    """A reply that has ended. Raises Unavailable where it was cut off."""
    if reply.finish_reason is FinishReason.CANCELLED:
        raise cut_off(reply)
    end = ending(reply, max_tokens)
    return MessageBody(
        id=new_id(),
        model=reply.model,
        content=[TextBlock(reply.text)],
        stop_reason=end.stop_reason,
        stop_sequence=end.stop_sequence,
        usage=render_usage(reply.usage),
    )


def render_usage(usage: Usage) -> UsageBody:
    return UsageBody(usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens, usage.cached_tokens)


def ending(reply: Reply, max_tokens: int) -> Ending:
    if reply.stop_string is not None:
        return Ending("stop_sequence", reply.stop_string)
    if reply.finish_reason is FinishReason.STOP:
        return Ending("end_turn", None)
    is_full = reply.usage.completion_tokens < max_tokens
    return Ending("model_context_window_exceeded" if is_full else "max_tokens", None)


def cut_off(reply: Reply) -> Unavailable:
    """Anthropic has no word for an answer that the server ended, so it is an error."""
    return Unavailable(f"model '{reply.model}' was unloaded during the answer; try again", retry_after_s=1)


def new_id() -> str:
    return f"msg_{uuid.uuid4().hex}"
