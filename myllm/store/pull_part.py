"""`PartFile`: a file that is not all there yet, `NAME.gguf.part`, and who may write it.

Behind the place where the content will end stands a ledger: which content is promised, and for each piece of it how many
bytes are here. It is brought up to date after each write, so a pull that was killed at any moment loses what was on the
way and nothing else. The same open file carries the lock: of all pulls of a file, in whatever processes, one writes and
the others read in the ledger how far it is. The system gives up the lock of a process that dies.

    [0, size)                  the content, with holes where pieces are missing
    [size, size + HEAD)        mark, what is promised, bytes of a piece
    [size + HEAD, …)           a counter for each piece
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from myllm.store.hub import RemoteFile

PIECE_BYTES = 32 << 20  # smaller ones cost requests, and the Hub counts those
MAX_PIECES = 256
_MARK = b"MyLLM/1\n"
_HEAD = struct.Struct("=8s32sQ")
_COUNTER = struct.Struct("=Q")


class PartFile:
    """An unfinished file that we alone may write; threads may write different pieces. Close it to let others go on."""

    def __init__(self, path: Path, file: RemoteFile, descriptor: int) -> None:
        self.path = path
        self.file = file
        self._descriptor = descriptor
        ledger = _read_ledger(descriptor, file)
        if ledger is None:
            self.start_over(max(PIECE_BYTES, -(-file.size // MAX_PIECES)))
        else:
            self.piece_bytes, self.counters = ledger

    @classmethod
    def open(cls, path: Path, file: RemoteFile, destination: Path, wait: Callable[[int], None]) -> PartFile | None:
        """Waits for its turn, telling `wait` again and again how many bytes the other one has; its errors end the waiting.

        None: the other one has finished the file, and it lies at `destination`.
        """
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                while not _lock(descriptor):
                    ledger = _read_ledger(descriptor, file)
                    wait(sum(ledger[1]) if ledger else 0)
                if _is_at(descriptor, path):
                    part = cls(path, file, descriptor)
                    descriptor = -1
                    return part
                if _is_at(descriptor, destination):
                    return None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        os.close(self._descriptor)

    @property
    def completed(self) -> int:
        return sum(self.counters)

    @property
    def frontier(self) -> int:
        """So many bytes from the start are here without a hole."""
        for index, count in enumerate(self.counters):
            start, end = self.bounds(index)
            if count < end - start:
                return start + count
        return self.file.size

    def bounds(self, index: int) -> tuple[int, int]:
        """Where a piece begins, and where the next one does."""
        return index * self.piece_bytes, min((index + 1) * self.piece_bytes, self.file.size)

    def missing(self) -> list[int]:
        """The pieces of which something is missing, in order."""
        bounds = map(self.bounds, range(len(self.counters)))
        return [index for index, (start, end) in enumerate(bounds) if self.counters[index] < end - start]

    def write(self, index: int, data: bytes) -> None:
        """What follows in a piece after that which is here."""
        start, end = self.bounds(index)
        place = start + self.counters[index]
        assert place + len(data) <= end
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, place)
            view, place = view[written:], place + written
        self.counters[index] = place - start
        os.pwrite(self._descriptor, _COUNTER.pack(place - start), self.file.size + _HEAD.size + index * _COUNTER.size)

    def read(self, place: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, place)

    def start_over(self, piece_bytes: int) -> None:
        """Forget what is here."""
        self.piece_bytes = piece_bytes
        self.counters = array("Q", bytes(8 * -(-self.file.size // piece_bytes)))
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, _HEAD.pack(_MARK, _promise(self.file), piece_bytes) + self.counters.tobytes(), self.file.size)

    def seal(self) -> None:
        """Cut the ledger off and bring the content to the disk; from here on only `move` or `discard`."""
        os.ftruncate(self._descriptor, self.file.size)
        os.fsync(self._descriptor)

    def move(self, destination: Path) -> None:
        os.replace(self.path, destination)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def completed_bytes(path: Path, file: RemoteFile) -> int:
    """How much of the file an earlier pull has left at `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        ledger = _read_ledger(descriptor, file)
    finally:
        os.close(descriptor)
    return sum(ledger[1]) if ledger else 0


def _read_ledger(descriptor: int, file: RemoteFile) -> tuple[int, array[int]] | None:
    """Bytes of a piece, and the counters; None where there is no ledger, or that of other content."""
    head = os.pread(descriptor, _HEAD.size, file.size)
    if len(head) < _HEAD.size:
        return None
    mark, promise, piece_bytes = _HEAD.unpack(head)
    if mark != _MARK or promise != _promise(file) or not 0 < piece_bytes <= file.size + PIECE_BYTES:
        return None
    num_pieces = -(-file.size // piece_bytes)
    content = os.pread(descriptor, num_pieces * _COUNTER.size, file.size + _HEAD.size)
    if len(content) < num_pieces * _COUNTER.size:
        return None
    counters = array("Q", content)
    lengths = (min(piece_bytes, file.size - index * piece_bytes) for index in range(num_pieces))
    return (piece_bytes, counters) if all(map(int.__le__, counters, lengths)) else None


def _promise(file: RemoteFile) -> bytes:
    return hashlib.sha256(f"{file.checksum} {file.size}".encode()).digest()


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Is what we hold open the file that has this name now?"""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
