"""What a conversation is called: its first words, until somebody gives it a name. Pure text, no database."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from myllm.errors import InvalidRequest
from myllm.types import Message

AUTOMATIC_LENGTH = 60
MAX_LENGTH = 200

_EXCERPT = 4096  # enough to find 60 characters in, without taking a 5 MB message apart


def automatic_title(messages: Sequence[Message]) -> str | None:
    """The first 60 characters of the first user message that has any, on one line."""
    lines = (one_line(message.content.lstrip()[:_EXCERPT]) for message in messages if message.role == "user")
    return next((line[:AUTOMATIC_LENGTH].rstrip() for line in lines if line), None)


def checked_title(title: str) -> str:
    """A title that somebody set, on one line. Raises InvalidRequest where nothing, or too much, is left of it."""
    line = one_line(title) if len(title) <= MAX_LENGTH else ""
    if not line:
        raise InvalidRequest(f"title has {len(title)} characters, it takes 1 to {MAX_LENGTH} and not only white space", param="title")
    return line


def one_line(text: str) -> str:
    """White space and control characters as single spaces: a title is printed on terminals, where escapes act.

    Halves of surrogate pairs go too; no encoding takes them.
    """
    return " ".join("".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text).split())
