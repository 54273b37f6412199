"""Durations and sizes as people write them: `5m`, `20MB`. One spelling for the settings and for a request's `keep_alive`."""

from __future__ import annotations

import math
import re
import reprlib

from myllm.errors import InvalidRequest

MAX_LENGTH = 40  # letters; longer than any duration or size that means something

# Go's units, which Ollama's clients write, and days; a microsecond has two spellings beside the plain one.
_SECONDS = {"ns": 1e-9, "us": 1e-6, "\xb5s": 1e-6, "\u03bcs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNIT = "|".join(_SECONDS)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_DURATION = re.compile(rf"([-+]?)((?:{_NUMBER}(?:{_UNIT}))+|{_NUMBER})")
_DURATION_PART = re.compile(rf"([\d.]+)({_UNIT})?")
_SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*([kmgt]?)(i?)(b?)")


def parse_duration(value: object) -> float:
    """Seconds from `300`, `"300"`, `"5m"` or `"1h30m"`; anything negative is for ever (`math.inf`).

    Raises InvalidRequest, because a request's `keep_alive` is parsed here too.
    """
    match = _match(_DURATION, value, "a duration; write seconds, or a number with ms, s, m, h or d such as 5m; negative is for ever")
    seconds = sum(float(number) * _SECONDS[unit or "s"] for number, unit in _DURATION_PART.findall(match[2]))
    return math.inf if match[1] == "-" and seconds > 0 else seconds


def parse_size(value: object) -> int:
    """Bytes from a number or from `"12GiB"`, `"20MB"`, `"512M"`: `MB` counts in thousands, `MiB` and a bare `M` in 1024s."""
    match = _match(_SIZE, value, "a size; write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB such as 12GiB")
    number, prefix, binary, suffix = match.groups()
    step = 1000 if suffix and not binary else 1024
    return int(float(number) * step ** " kmgt".index(prefix or " "))


def _match(pattern: re.Pattern[str], value: object, wanted: str) -> re.Match[str]:
    text = ""
    if isinstance(value, str) and len(value) <= MAX_LENGTH:
        text = value.strip().lower()
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        text = f"{value:f}"
    match = pattern.fullmatch(text)
    if not match:
        # Only what is surely short: an int of 5,000 digits, alone or in a list, has no repr.
        shown = reprlib.repr(value) if text or isinstance(value, str | float) else f"this {type(value).__name__}"
        raise InvalidRequest(f"{shown} is not {wanted}")
    return match
