"""Which messages a history that is too long for the context may lose: its oldest turns, never the system's words.

Pure choices; whether what is left fits is for those to find out who can count tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from myllm.types import Message

MOST_CHARACTERS_A_TOKEN = 8  # on the average of a chat; a text in English has four or five
LEAST_AROUND = 2 * MOST_CHARACTERS_A_TOKEN  # what a template writes around a message


def droppable(history: tuple[Message, ...]) -> list[int]:
    """How many messages may be dropped from the front (after the system's): whole turns, never the last user's."""
    first = num_leading_system(history)
    starts = [i for i, message in enumerate(history) if message.role == "user" and i > first]
    return [start - first for start in starts]


def first_likely(history: tuple[Message, ...], choices: Sequence[int], num_tokens: int) -> int:
    """Where in `choices`, numbers of messages to drop, the first stands that may leave as few tokens; the last where none may.

    A guess from lengths alone, to begin with: it saves writing out thousands of messages that cannot fit.
    """
    sizes = (len(message.content) + LEAST_AROUND for message in reversed(history[num_leading_system(history) :]))
    of_last = [0, *accumulate(sizes)]  # characters of so many messages at the end
    left = (of_last[-1 - count] for count in choices)
    return next((at for at, size in enumerate(left) if size <= num_tokens * MOST_CHARACTERS_A_TOKEN), len(choices) - 1)


def drop_oldest(history: tuple[Message, ...], count: int) -> tuple[Message, ...]:
    """Without `count` messages after the leading system messages."""
    first = num_leading_system(history)
    return history[:first] + history[first + count :]


def num_leading_system(history: tuple[Message, ...]) -> int:
    count = 0
    while count < len(history) and history[count].role in ("system", "developer"):
        count += 1
    return count
