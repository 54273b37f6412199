"""`PullTask`: a pull in a thread of its own, seen from an event loop.

The thread reports as often as it likes; a reader that is slow sees the newest state and not each one on the way. Threads
of the loop's executor are not used: a pull takes hours, and templates and databases need those.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

from myllm.store.pull import Puller
from myllm.store.pull_progress import Progress
from myllm.store.store import InstalledModel


class PullTask:
    """A running pull: iterate for its Progress until `success`; errors are raised to the reader."""

    def __init__(self, puller: Puller, name: str) -> None:
        self._puller = puller
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._changed = asyncio.Event()
        self._latest: Progress | None = None
        self._outcome: asyncio.Future[InstalledModel] = self._loop.create_future()
        threading.Thread(target=self._run, name=f"pull {name[:50]}", daemon=True).start()

    async def started(self) -> None:
        """Returns when all that can fail before the download has not; raises what did."""
        await self._changed.wait()
        if self._latest is None:
            self._outcome.result()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._latest is not None:
                progress, self._latest = self._latest, None
                yield progress
            if self._outcome.done():
                self._outcome.result()
                return

    async def finish(self) -> Progress:
        """Run to the end without streaming."""
        last = [progress async for progress in self][-1]
        assert last.status == "success"
        return last

    async def end(self) -> None:
        """Stop it if it runs; what it has brought stays for the next one. Returns when it writes no more."""
        self._stop.set()
        await asyncio.wait((self._outcome,))
        self._outcome.exception()

    def _run(self) -> None:
        """The thread."""
        try:
            model = self._puller.pull(self._name, lambda progress: self._tell(lambda: self._advance(progress)), self._stop)
        except BaseException as error:
            failure = error
            self._tell(lambda: self._conclude(lambda: self._outcome.set_exception(failure)))
        else:
            self._tell(lambda: self._conclude(lambda: self._outcome.set_result(model)))

    def _tell(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback)

    def _advance(self, progress: Progress) -> None:
        self._latest = progress
        self._changed.set()

    def _conclude(self, settle: Callable[[], None]) -> None:
        settle()
        self._changed.set()
