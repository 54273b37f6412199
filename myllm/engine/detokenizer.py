"""Tokens become text that is safe to show: no half characters, no part of a stop string, no work that grows.

A token's piece is bytes, and one character may span several tokens; a stop string may as well. `decode` returns what is
certain and holds back the rest; `flush` gives what was held back when the generation ends for another reason.
"""

from __future__ import annotations

import codecs


class Detokenizer:
    """bytes in, text out; `stop_string` is the one that has been seen (it and what follows are dropped)."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        # "replace" only ever fires for bytes that can't be UTF-8; an unfinished character waits for its rest
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(filter(None, stop))
        self._held = ""
        self.stop_string: str | None = None

    @property
    def is_stopped(self) -> bool:
        return self.stop_string is not None

    def decode(self, piece: bytes) -> str:
        """The text that became certain with this piece."""
        text = self._decoder.decode(piece)
        if not self._stop:
            return text
        if not text:
            return ""
        return self._match(self._held + text)

    def flush(self) -> str:
        """The held text at the end of a generation; a character that never got its last byte is dropped."""
        held, self._held = self._held, ""
        return "" if self.is_stopped else held

    def _match(self, text: str) -> str:
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:  # the one that is complete first, or the text would depend on how it was cut into tokens
            _, at, self.stop_string = min(found)
            self._held = ""
            return text[:at]
        keep = max(self._overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0
