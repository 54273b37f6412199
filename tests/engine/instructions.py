"""Counting the Python that a call costs, because a clock cannot tell a loop over a prompt from a busy machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def count_instructions(run: Callable[[], object]) -> int:
    """Bytecode instructions that `run` executes inside myllm/engine; loops in NumPy and C count as one call."""
    counted = 0

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal counted
        if event == "call" and "/myllm/engine/" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return counted
