"""Messages as OpenAI's clients send them: content that is a string or parts, calls and their results, and nothing lost unseen."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from myllm.errors import InvalidRequest, UnsupportedByModel
from myllm.types import Message, Role, ToolCall


class ContentPart(Struct):
    """`text` and `refusal` parts hold text; all other types are refused by their name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCallBody(Struct):
    name: str
    arguments: str = ""


class ToolCallBody(Struct):
    id: str
    function: FunctionCallBody
    type: Literal["function"] = "function"


class MessageBody(Struct):
    """A turn. An assistant's may lack content where it made calls; `refusal` is what it said instead of content."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None


def parse_messages(bodies: list[MessageBody], max_messages: int) -> tuple[Message, ...]:
    """Raises InvalidRequest that names the message, and the part where it is one."""
    if len(bodies) > max_messages:
        raise InvalidRequest(f"'messages' has {len(bodies):,} entries, at most {max_messages:,} are taken", param="messages")
    return tuple(_parse_message(body, f"messages[{at}]") for at, body in enumerate(bodies))


def text_of(content: str | list[ContentPart], place: str) -> str:
    """The text of a message; parts are joined by line feeds, as other local servers do."""
    if isinstance(content, str):
        return content
    return "\n".join(_text_of_part(part, f"{place}[{at}]") for at, part in enumerate(content))


def _parse_message(body: MessageBody, place: str) -> Message:
    if body.audio is not None:
        raise UnsupportedByModel(f"'{place}.audio' is no text, and that is all that this server takes", param=f"{place}.audio")
    if body.function_call is not None:
        raise InvalidRequest(f"'{place}.function_call' is out of use; send 'tool_calls'", param=f"{place}.function_call")
    content = body.refusal if body.content is None else body.content
    if content is None and body.role != "assistant":
        raise InvalidRequest(f"'{place}.content' is required in a message of role '{body.role}'", param=f"{place}.content")
    return Message(
        role=body.role,
        content=text_of(content or "", f"{place}.content"),
        reasoning=body.reasoning_content,
        name=body.name,
        tool_calls=tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in body.tool_calls or ()),
        tool_call_id=body.tool_call_id,
    )


def _text_of_part(part: ContentPart, place: str) -> str:
    field = "refusal" if part.type == "refusal" else "text"
    if part.type not in ("text", "refusal"):
        param = f"{place}.{part.type[:40]}"
        raise UnsupportedByModel(f"'{param}': the model takes text only; send parts of type 'text'", param=param)
    text: str | None = getattr(part, field)
    if text is None:
        raise InvalidRequest(f"'{place}.{field}' is required in a part of type '{part.type}'", param=f"{place}.{field}")
    return text
