"""Messages as a template sees them: plain dicts in OpenAI's shape, and the roles that a template does not know, folded away.

Some families were trained without a system turn. Their templates raise on one, or drop it without a word; the system
text then opens the next user's turn, which is how those families' authors tell people to write it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from myllm.types import Message, ToolCall


def as_dict(message: Message) -> dict[str, Any]:
    """Only what is there: templates ask `is defined`, so an absent field is a missing key."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        turn["reasoning_content"] = message.reasoning
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [_call_as_dict(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _call_as_dict(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _parsed(call.arguments)}}


def _parsed(arguments: str) -> dict[str, Any] | str:
    """A JSON object as a dict, since templates write it with `tojson`; what a model botched stays as it wrote it."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def developer_as_system(messages: Sequence[Message]) -> list[Message]:
    """OpenAI's newer word for the same turn, for templates that do not know it."""
    return [replace(message, role="system") if message.role == "developer" else message for message in messages]


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Each system text at the head of the next user turn; at the tail of the last one where none follows."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            folded.append(replace(message, content="\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            folded.append(message)
    if waiting and folded and folded[-1].role == "user":
        folded[-1] = replace(folded[-1], content="\n\n".join([folded[-1].content, *waiting]))
    elif waiting:
        folded.append(Message(role="user", content="\n\n".join(waiting)))
    return folded
