"""`ThoughtSplitter`: what a model thinks, told apart from what it says, while it is still being written.

Qwen3, the DeepSeek-R1 family and others write `<think>…</think>` before their answer; some of their templates open the tag in
the prompt already, so that the answer begins in the middle of a thought. Only a thought at the very beginning counts: a later
tag is text that the model speaks of. Other forms (Harmony's channels) are not known here. Pure: text in, text out.
"""

from __future__ import annotations

from myllm.types import Prompt

OPEN, CLOSE = "<think>", "</think>"


def opens_thought(prompt: Prompt) -> bool:
    """Whether the answer to this prompt begins inside a thought."""
    return bool(prompt) and not prompt[-1].is_literal and prompt[-1].text.rstrip().endswith(OPEN)


def split_thoughts(text: str, *, is_open: bool) -> tuple[str, str]:
    """A whole answer as (thoughts, text)."""
    splitter = ThoughtSplitter(is_open=is_open)
    first, last = splitter.feed(text), splitter.flush()
    return first[0] + last[0], first[1] + last[1]


class ThoughtSplitter:
    """Feed it the pieces of an answer; each call returns what is certain by then, as (thoughts, text).

    is_open: the prompt has opened the thought. Space around a thought belongs to neither; an answer without one is left as it
    is. A thought that nobody closed is a thought to its end. How the answer is cut into pieces makes no difference.

    The states:  _begin ──► _open ──► _think ──► _pause ──► _pass
                    └────────────────────────────────────────▲    (no thought)
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._held = ""  # may still become a tag, or space that belongs to nobody
        self._step = self._begin

    def feed(self, piece: str) -> tuple[str, str]:
        held, self._held = self._held, ""
        return self._step(held + piece)

    def flush(self) -> tuple[str, str]:
        """What was held back, once the answer has ended."""
        held, self._held = self._held, ""
        if self._step == self._think:
            return held.rstrip(), ""
        return (held.strip(), "") if self._is_open and self._step == self._begin else ("", held)

    def _begin(self, text: str) -> tuple[str, str]:
        """Before the first letter: is this a thought? A model may open one that its prompt had opened before."""
        start = text.lstrip()
        if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
            self._held = text
            return "", ""
        if start.startswith(OPEN):
            start = start[len(OPEN) :]
        elif not self._is_open:
            self._step = self._pass
            return "", text
        self._step = self._open
        return self._open(start)

    def _open(self, text: str) -> tuple[str, str]:
        """Before the thought's first letter."""
        start = text.lstrip()
        if not start:
            return "", ""
        self._step = self._think
        return self._think(start)

    def _think(self, text: str) -> tuple[str, str]:
        thought, close, rest = text.partition(CLOSE)
        if close:
            self._step = self._pause
            return thought.rstrip(), self._pause(rest)[1]
        end = len(text) - _overlap(text)
        end = len(text[:end].rstrip())
        self._held = text[end:]
        return text[:end], ""

    def _pause(self, text: str) -> tuple[str, str]:
        """Behind a thought, before the answer's first letter."""
        start = text.lstrip()
        if start:
            self._step = self._pass
        return "", start

    def _pass(self, text: str) -> tuple[str, str]:
        return "", text


def _overlap(text: str) -> int:
    """How many letters at the end of the text may be the beginning of the closing tag."""
    return next((size for size in range(min(len(CLOSE) - 1, len(text)), 0, -1) if text.endswith(CLOSE[:size])), 0)
