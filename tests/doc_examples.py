"""The runnable examples of a page: found, run against a server, and held against what the page says they print.

An example is a fenced block of `bash`, `python` or `javascript`, and the fenced block after it is what it prints: `json`
is compared as JSON, `text` as text; `…` stands for any text in both. Only the address of the server is replaced.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BASE_URL = "http://127.0.0.1:8000"

# What differs between machines and runs; of these only the kind of the value is compared.
VARYING = {
    *("cached_tokens", "uptime_s", "total", "available", "cells_used", "memory_bytes", "estimated_bytes", "expires_at"),
    *("embedding", "embeddings", "created", "created_at", "modified_at"),
}


class Example(NamedTuple):
    line: int
    language: str
    source: str
    output_language: str
    output: str


def examples(page: str) -> list[Example]:
    """The runnable blocks, each with the block that follows it."""
    blocks = [(page[: m.start()].count("\n") + 1, m[1], m[2]) for m in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)]
    after = [*blocks[1:], (0, "", "")][: len(blocks)]
    return [Example(*block, *out[1:]) for block, out in zip(blocks, after, strict=True) if block[1] in ("bash", "python", "javascript")]


def differences(expected: Any, actual: Any, name: str = "") -> Iterator[str]:
    """Where an answer is not what the page shows."""
    if name in VARYING or expected is None or actual is None:
        if kind(expected) is not kind(actual):
            yield f"{name}: {expected!r} is shown and {actual!r} came"
    elif isinstance(expected, dict) and isinstance(actual, dict):
        if expected.keys() != actual.keys():
            yield f"{name or 'the answer'}: shown and not there, or there and not shown: {sorted(expected.keys() ^ actual.keys())}"
        for key in expected.keys() & actual.keys():
            yield from differences(expected[key], actual[key], key)
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for one, other in zip(expected, actual, strict=True):
            yield from differences(one, other, name)
    elif not (is_like(expected, actual) if isinstance(expected, str) and isinstance(actual, str) else expected == actual):
        yield f"{name}: {expected!r} is shown and {actual!r} came"


def kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def is_like(shown: str, text: str) -> bool:
    return re.fullmatch(".*?".join(map(re.escape, shown.strip().split("…"))), text.strip(), re.S) is not None


def run(example: Example, url: str, folder: Path) -> str:
    """What the example prints; fails where it fails."""
    programs = {"bash": ["bash", "-eu"], "python": [sys.executable, "-"], "javascript": ["node", "--input-type=module"]}
    program = programs[example.language]
    for needed in (program[0], *re.findall(r"^(curl)\b", example.source, re.M)):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    source = example.source.replace(BASE_URL, url)
    done = subprocess.run(program, input=source, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
