"""A model on its way up or up: the load that all who want it share, its leases, its clock, and what it takes.

It decides nothing; the manager does. It knows no store beyond the entry that it was loaded from.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from myllm.config import EngineOptions
from myllm.memory import Footprint, Tenant
from myllm.store.store import InstalledModel
from myllm.types import LoadPlan
from myllm.worker.handle import Worker


class LoadedModel:
    """`ready` is shared by all who wait for one load; `footprint` is the estimate that let it in."""

    def __init__(
        self,
        installed: InstalledModel,
        options: EngineOptions,
        plan: LoadPlan,
        footprint: Footprint,
        *,
        keep_alive_s: float,
        is_pinned: bool,
    ) -> None:
        self.installed = installed
        self.options = options
        self.plan = plan
        self.footprint = footprint
        self.keep_alive_s = keep_alive_s
        self.is_pinned = is_pinned
        self.progress = 0.0
        self.num_leases = 0
        self.last_used = time.monotonic()
        self.ready: asyncio.Task[Worker]
        self.idle = asyncio.Event()  # set while nobody holds a lease
        self.idle.set()
        self._expiry: asyncio.TimerHandle | None = None
        self._holders: list[asyncio.Task[Any] | None] = []  # of leases, as often as they have one

    @property
    def name(self) -> str:
        return self.installed.name

    @property
    def worker(self) -> Worker | None:
        """The running worker; None while loading and after a failure."""
        if not self.ready.done() or self.ready.cancelled() or self.ready.exception():
            return None
        return self.ready.result()

    @property
    def is_alive(self) -> bool:
        """Loading, or loaded with a worker that lives."""
        return not self.ready.done() or (self.worker is not None and self.worker.is_alive)

    @property
    def memory_bytes(self) -> int:
        """Main memory that it takes now; while it loads, what it will."""
        return self.worker.memory_bytes if self.worker else self.footprint.ram

    @property
    def reserved(self) -> Footprint:
        """What it may come to take: buffers that were estimated for are touched when they are first used."""
        on_gpus = sum(self.worker.info.device_bytes.values()) if self.worker else self.footprint.gpu
        return Footprint(max(self.memory_bytes, self.footprint.ram), on_gpus)

    @property
    def pending(self) -> Footprint:
        """What it will still take of the memory that looks free; a GPU's is all taken while loading."""
        if self.worker is None:
            return self.footprint
        return Footprint(self.reserved.ram - self.worker.memory_bytes)

    @property
    def tenant(self) -> Tenant:
        return Tenant(self.name, self.reserved, self.last_used, self.num_leases == 0 and self.ready.done(), self.is_pinned)

    @property
    def expires_at(self) -> float | None:
        """Epoch seconds when it will be unloaded if nobody asks; None while in use or kept for ever."""
        if self._expiry is None:
            return None
        return time.time() + self._expiry.when() - asyncio.get_running_loop().time()

    def satisfies(self, overrides: Mapping[str, Any]) -> bool:
        """Was it loaded with these engine options, or with a larger context than is asked for?"""
        given = dict(overrides)
        context = given.pop("context_size", 0)
        has_context = context <= self.plan.context_length if context else True
        return has_context and all(getattr(self.options, name) == value for name, value in given.items())

    def acquire(self) -> None:
        self.num_leases += 1
        self.idle.clear()
        self.stop_clock()

    def release(self, keep_alive_s: float | None) -> None:
        """Give a lease back; keep_alive_s: how long it may stay from now on, None leaves that as it was."""
        self.num_leases -= 1
        self.last_used = time.monotonic()
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
        if self.num_leases == 0:
            self.idle.set()

    @contextmanager
    def held_by(self, task: asyncio.Task[Any] | None) -> Iterator[None]:
        """While the context lasts, the task has a lease: it cannot wait for one to be given back."""
        self._holders.append(task)
        try:
            yield
        finally:
            self._holders.remove(task)

    def is_held_by(self, task: asyncio.Task[Any] | None) -> bool:
        return task in self._holders

    def start_clock(self, unload: Callable[[], None]) -> None:
        """Call `unload` after the keep-alive, unless it is used again before."""
        self.stop_clock()
        if self.keep_alive_s != math.inf and not self.is_pinned:
            self._expiry = asyncio.get_running_loop().call_later(self.keep_alive_s, unload)

    def stop_clock(self) -> None:
        if self._expiry:
            self._expiry.cancel()
            self._expiry = None


class ModelLease:
    """The right to use a loaded model until the lease is closed."""

    def __init__(self, model: LoadedModel, worker: Worker) -> None:
        self.installed = model.installed
        self.worker = worker

    @property
    def name(self) -> str:
        return self.installed.name
