"""`Download`: the missing bytes of one file, over several connections, checked while they come.

Pieces are taken in order, so the part of the file that has no holes grows from its start, and the checksum is made of it
as it does: when the last byte is here, little is left to check. A connection that breaks is opened again where it broke,
and a file is given up only after several tries in a row that brought nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

from myllm.errors import DownloadFailed, HubUnreachable
from myllm.store.gguf_header import MAGIC
from myllm.store.hub import Hub, RangesIgnored, RemoteFile, Repository
from myllm.store.pull_part import PartFile

MAX_TRIES = 6  # in a row without a byte; with the doubling pauses about 15 s
MAX_PAUSE_S = 8.0
MAX_ASKED_PAUSE_S = 300.0  # the Hub counts requests in windows of five minutes
TICK_S = 0.1
BLOCK_BYTES = 1 << 20


class Stopped(Exception):
    """The pull was told to stop; what is here stays for the next one."""


class Corrupt(Exception):
    """What came is not what was promised, and what is on the disk of it is worthless."""


class Download:
    """One run over one file. stop: set it from anywhere to end with Stopped."""

    def __init__(
        self, hub: Hub, repository: Repository, part: PartFile, stop: threading.Event, *, connections: int, first_pause_s: float
    ) -> None:
        self.hub = hub
        self.repository = repository
        self.file: RemoteFile = part.file
        self.part = part
        self._stop = stop
        self._connections = connections
        self._first_pause_s = first_pause_s
        self._hasher = self.file.hasher()
        self._num_hashed = 0

    def run(self, report: Callable[[int], None]) -> None:
        """Returns when the part holds the whole file and its checksum is right; report gets the bytes that are here.

        Raises Corrupt, Stopped, and what `Hub.read` raises.
        """
        for _ in range(MAX_TRIES):
            try:
                self._fetch(report)
                break
            except RangesIgnored:  # the whole file in one stretch is all that can be had of this server
                self.part.start_over(self.file.size)
                self._hasher, self._num_hashed = self.file.hasher(), 0
        else:
            raise HubUnreachable(f"{self.hub.endpoint} sends only whole files and broke off each time, {MAX_TRIES} times")
        while self._hash_some():
            self._check_stop()
            report(self.file.size)
        if not self.file.is_right(self._hasher):
            raise Corrupt(f"its checksum is {self._hasher.hexdigest()}, and {self.file.checksum.partition(':')[2]} was promised")

    def _fetch(self, report: Callable[[int], None]) -> None:
        """Bring the missing pieces, and hash behind the connections meanwhile."""
        fetchers = _Fetchers(self, self.part.missing(), self._connections)
        try:
            while fetchers.are_running():
                self._check_stop()
                report(self.part.completed)
                if not self._hash_some():
                    fetchers.wait(TICK_S)
        finally:
            fetchers.end()
        fetchers.raise_error()
        self._check_stop()

    def fetch_piece(self, index: int, is_over: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Bring what is missing of a piece, in as many tries as bring something."""
        start, end = self.part.bounds(index)
        num_failures = 0
        while (here := start + self.part.counters[index]) < end and not is_over():
            try:
                with closing(self.hub.read(self.repository, self.file, here, end)) as chunks:
                    for chunk in chunks:
                        self.part.write(index, chunk)
                        num_failures = 0
                        if is_over():
                            return
            except HubUnreachable as error:
                num_failures += 1
                if num_failures >= MAX_TRIES:
                    raise
                asked_s = min(error.retry_after_s or 0, MAX_ASKED_PAUSE_S)
                pause(max(min(self._first_pause_s * 2**num_failures, MAX_PAUSE_S), asked_s))

    def _hash_some(self) -> bool:
        """Hash for a tick at most; False if there is nothing new to hash."""
        frontier, deadline = self.part.frontier, time.monotonic() + TICK_S
        if self._num_hashed == frontier:
            return False
        while self._num_hashed < frontier and time.monotonic() < deadline:
            block = self.part.read(self._num_hashed, min(BLOCK_BYTES, frontier - self._num_hashed))
            if self._num_hashed == 0 and not block.startswith(MAGIC[: len(block)]):
                raise Corrupt(f"it is no GGUF file: it starts with {block[:4]!r}")
            if not block:
                raise DownloadFailed(f"'{self.part.path}' became shorter while it was written; is something else working on it?")
            self._hasher.update(block)
            self._num_hashed += len(block)
        return True

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


class _Fetchers:
    """Threads that bring pieces, each the first one that nobody has; the first error ends all."""

    def __init__(self, download: Download, pieces: list[int], connections: int) -> None:
        self._download = download
        self._pieces = iter(pieces)
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._error: Exception | None = None
        count = min(connections, len(pieces))
        self._threads = [threading.Thread(target=self._work, name=f"pull-{number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def are_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads) and not self._is_over.is_set()

    def wait(self, seconds: float) -> None:
        next((thread for thread in self._threads if thread.is_alive()), self._threads[0]).join(seconds)

    def end(self) -> None:
        """Returns when nobody writes any more; a connection that has gone silent is given up after its timeout."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def raise_error(self) -> None:
        if self._error:
            raise self._error

    def _work(self) -> None:
        try:
            while (index := self._take()) is not None:
                self._download.fetch_piece(index, self._is_over.is_set, self._is_over.wait)
        except Exception as error:
            self._error = self._error or error
            self._is_over.set()

    def _take(self) -> int | None:
        with self._lock:
            return None if self._is_over.is_set() else next(self._pieces, None)
