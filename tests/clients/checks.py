"""What the client scripts share: a line for each thing that was tried, and an end with status 1 at the first that fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
BASE_URL = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8000"
OLLAMA_URL = sys.argv[2].rstrip("/") if len(sys.argv) > 2 else f"{BASE_URL}/ollama"


def check(what: str, is_right: Any, seen: Any = "") -> None:
    """Say that `what` worked, or end the script with what was seen instead."""
    if not is_right:
        sys.exit(f"WRONG  {what}: {seen!r}")
    print(f"ok  {what}", flush=True)


def check_raises(what: str, kind: type[Exception], call: Callable[[], Any], words: str = "") -> Exception:
    """`call` must raise `kind` with `words` in its message; returns what it raised."""
    try:
        seen = call()
    except kind as error:
        check(what, words in str(error), error)
        return error
    sys.exit(f"WRONG  {what}: nothing was raised, but {seen!r} returned")
