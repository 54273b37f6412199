"""An answer against the type that the reference tells of it: its fields, of their types, and no others."""

from __future__ import annotations

from typing import Any

import msgspec


def assert_is(kind: Any, answer: Any) -> None:
    """Raises msgspec.ValidationError for a field that is missing or of another type, AssertionError for one too many."""
    assert msgspec.json.decode(msgspec.json.encode(msgspec.convert(answer, kind))) == answer
