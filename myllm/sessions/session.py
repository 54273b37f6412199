"""What the store hands out: pure values, detached from the database, safe to pass between threads.

`SessionInfo` is a line of a list, `Session` a whole conversation with what is known of each message, `History` only the
messages that a prompt is made of. No SQL here, and no HTTP: a dialect turns these into its own bodies.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from myllm.types import FinishReason, Message, Usage


def iso_time(epoch_s: float) -> str:
    """UTC with milliseconds: "2026-01-02T03:04:05.678Z"."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SessionInfo(Struct, frozen=True):
    """A conversation without its messages. `title` is None until a user said something or a title was set.

    `model` is the one that answered last, `updated_at` the time of the last turn or reply: a new title does not move it.
    """

    id: str
    title: str | None
    model: str
    num_messages: int
    created_at: str
    updated_at: str


class Reply(Struct, frozen=True, omit_defaults=True):
    """What is known of a message that a model wrote; no part of its hash, and never compared."""

    finish_reason: FinishReason
    model: str
    usage: Usage | None = None


class StoredMessage(Struct, frozen=True):
    """A message and when it was first stored; `reply` is None for what a client sent."""

    message: Message
    created_at: str
    reply: Reply | None = None

    def to_dict(self) -> dict[str, Any]:
        """One flat JSON object: the message's fields, `created_at`, and those of `reply` where there is one."""
        known = msgspec.to_builtins(self.reply) if self.reply else {}
        return {**msgspec.to_builtins(self.message), "created_at": self.created_at, **known}


class Session(Struct, frozen=True):
    """A conversation with its messages, oldest first."""

    info: SessionInfo
    messages: tuple[StoredMessage, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the info's fields plus `messages`."""
        return {**msgspec.to_builtins(self.info), "messages": [message.to_dict() for message in self.messages]}


class NewResponse(Struct, frozen=True):
    """A turn that is found again by an id of its own, to be read or to go on from.

    previous: the response that it goes on from. messages: what the request brought; answer, reply: what the model said to
    that, and what is known of it. body: the response as the client got it; nothing in here reads it.
    """

    id: str
    previous: str | None
    messages: tuple[Message, ...]
    answer: Message
    reply: Reply
    body: str


class StoredResponse(Struct, frozen=True):
    """`messages` is the whole conversation up to its answer, which is the last of them."""

    id: str
    session_id: str
    messages: tuple[Message, ...]
    body: str


class History(Struct, frozen=True):
    """The messages of a session after a turn was appended, oldest first, as they are stored (reasoning included).

    `born` tells this session from a later one under the same id; hand it to `add_reply`.
    """

    session_id: str
    born: int
    messages: tuple[Message, ...]
