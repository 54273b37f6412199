"""Server-sent events as they come in, without I/O: bytes go in, the pieces of an answer come out.

`EventDecoder` finds the events in the bytes, a `Reader` reads them. Not httpx's `iter_lines`: it also ends lines at U+2028
and its kin, which an answer may hold.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct, field

from myllm.client.results import PullProgress
from myllm.errors import MyLLMError, ServerUnreachable
from myllm.types import Usage

T = TypeVar("T")
R = TypeVar("R")


class EventDecoder:
    """Events are data lines up to an empty line, ended by line feeds with or without a carriage return; comments are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that this chunk completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


class TextEvent(Struct):
    """A piece of a text, or with `done` the end and all that is known then; `error` where it broke."""

    token: str = ""
    done: bool = False
    error: str | None = None
    session_id: str = ""
    full_text: str = ""
    reasoning: str | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    truncated_messages: int = 0


class PullEnding(Struct):
    """What a pull's event tells beside its progress: whether it was the last, and the `error` that ended it."""

    done: bool = False
    error: str | None = None


class Reader(Generic[T, R]):
    """Reads one stream. `answer` is the whole, None until its last event has come.

    An error event is kept until `check`, so that what came before it in the same chunk is seen first.
    """

    def __init__(self) -> None:
        self.answer: R | None = None
        self._decoder = EventDecoder()
        self._failure: MyLLMError | None = None

    def feed(self, chunk: bytes) -> list[T]:
        """The pieces that this chunk completes. Raises ServerUnreachable for what no MyLLM server sends."""
        try:
            return [piece for data in self._decoder.feed(chunk) for piece in self._read(data)]
        except ValueError as exc:
            raise ServerUnreachable(f"the stream holds an event that is not one of MyLLM's ({exc})") from exc

    def check(self) -> None:
        """Raises what the server's error event said."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """The stream is over. Raises ServerUnreachable where it was cut off."""
        if self.answer is None:
            raise ServerUnreachable("the server ended the answer before it was complete; its log may say why")

    def _read(self, data: bytes) -> list[T]:
        if self.answer is not None or self._failure is not None:
            return []
        return self._piece(data)

    def _fail(self, message: str) -> list[T]:
        self._failure = MyLLMError(message)
        return []

    @abstractmethod
    def _piece(self, data: bytes) -> list[T]:
        """What an event adds; the last one sets `answer`."""


_decode_text = msgspec.json.Decoder(TextEvent).decode
_decode_progress = msgspec.json.Decoder(PullProgress).decode
_decode_ending = msgspec.json.Decoder(PullEnding).decode


class TextReader(Reader[str, R]):
    """A streamed chat or text; `ending` makes the answer of the last event."""

    def __init__(self, ending: Callable[[TextEvent], R]) -> None:
        super().__init__()
        self._ending = ending

    def _piece(self, data: bytes) -> list[str]:
        event = _decode_text(data)
        if event.error is not None:
            return self._fail(event.error)
        if event.done:
            self.answer = self._ending(event)
        return [event.token] if event.token else []


class PullReader(Reader[PullProgress, PullProgress]):
    """A pull: every event tells how far it is, the last one that it is done."""

    def _piece(self, data: bytes) -> list[PullProgress]:
        ending = _decode_ending(data)
        if ending.error is not None:
            return self._fail(ending.error)
        progress = _decode_progress(data)
        if ending.done:
            self.answer = progress
        return [progress]
