"""Which messages a history that is too long for the context may lose: its oldest turns, never the system's words.

Pure choices; whether what is left fits is for those to find out who can count tokens.
"""

from __future__ import annotations

from myllm.types import Message


def droppable(history: tuple[Message, ...]) -> list[int]:
    """How many messages may be dropped from the front (after the system's): whole turns, never the last user's."""
    first = num_leading_system(history)
    starts = [i for i, message in enumerate(history) if message.role == "user" and i > first]
    return [start - first for start in starts]


def drop_oldest(history: tuple[Message, ...], count: int) -> tuple[Message, ...]:
    """Without `count` messages after the leading system messages."""
    first = num_leading_system(history)
    return history[:first] + history[first + count :]


def num_leading_system(history: tuple[Message, ...]) -> int:
    count = 0
    while count < len(history) and history[count].role in ("system", "developer"):
        count += 1
    return count
