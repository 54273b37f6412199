"""`Stream` and `AsyncStream`: an answer that comes in pieces, to iterate over.

What is sent and how the pieces are read is decided elsewhere (`calls`, `events`), here is only when: the request goes out at
the `with`, or with the first piece where there is none. A stream that is left stops the work behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Generic, Self, TypeVar

from myllm.client.events import Reader

T = TypeVar("T")
R = TypeVar("R")


class Stream(Generic[T, R]):
    """Pieces of an answer, as they come: of a text its characters, of a pull its progress. Iterate over it, once.

    Use it in a `with`: errors that the server finds beforehand are raised at its head, and leaving it early stops the
    generation or the pull. One thread reads a stream.
    """

    def __init__(self, batches: Generator[list[T], None, None], reader: Reader[T, R]) -> None:
        # An empty batch when the server has accepted the request, then one for each chunk of bytes.
        self._batches = batches
        self._reader = reader
        self._waiting: deque[T] = deque()

    @property
    def answer(self) -> R:
        """The whole answer with its usage and session; of a pull the last progress. RuntimeError before the stream has ended."""
        return _complete(self._reader)

    def finish(self) -> R:
        """Read on to the end; the whole answer."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """Hang up. The server stops what it was doing for this stream."""
        self._batches.close()
        self._waiting.clear()

    def __enter__(self) -> Self:
        self._waiting.extend(next(self._batches, ()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while not self._waiting:
            self._waiting.extend(next(self._batches))
        return self._waiting.popleft()


class AsyncStream(Generic[T, R]):
    """A `Stream` for `async with` and `async for`. One task reads it."""

    def __init__(self, batches: AsyncGenerator[list[T], None], reader: Reader[T, R]) -> None:
        self._batches = batches
        self._reader = reader
        self._waiting: deque[T] = deque()

    @property
    def answer(self) -> R:
        """The whole answer with its usage and session; of a pull the last progress. RuntimeError before the stream has ended."""
        return _complete(self._reader)

    async def finish(self) -> R:
        """Read on to the end; the whole answer."""
        async for _ in self:
            pass
        return self.answer

    async def aclose(self) -> None:
        """Hang up. The server stops what it was doing for this stream."""
        await self._batches.aclose()
        self._waiting.clear()

    async def __aenter__(self) -> Self:
        self._waiting.extend(await anext(self._batches, []))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._waiting:
            self._waiting.extend(await anext(self._batches))
        return self._waiting.popleft()


def _complete(reader: Reader[T, R]) -> R:
    if reader.answer is None:
        raise RuntimeError("the answer is not complete; read the stream to its end first, or call finish()")
    return reader.answer
