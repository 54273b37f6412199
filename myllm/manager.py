"""The ModelManager: which models are loaded, for whom, and for how long.

A model is used under a lease: ready and pinned, or an error. Callers of one load share it; a leased model is never
unloaded under its users except when somebody asks for that by name, and then they get a bounded time to finish. A model
that nobody has used for its keep-alive goes. A worker that dies takes its model with it, and the next lease loads anew.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import psutil

from myllm.config import EngineOptions, Settings
from myllm.errors import InsufficientMemory, ModelLoadFailed, MyLLMError
from myllm.memory import Tenant, choose_evictions, estimate
from myllm.store.store import InstalledModel, Store
from myllm.worker.handle import Worker

log = logging.getLogger("myllm.manager")

Status = Literal["unloaded", "loading", "loaded", "failed"]
GIB = 1 << 30


class LoadedModel:
    """A model on its way up or up. `ready` is shared by all who wait for one load."""

    def __init__(self, installed: InstalledModel, options: EngineOptions, keep_alive_s: float, is_pinned: bool) -> None:
        self.installed = installed
        self.options = options
        self.keep_alive_s = keep_alive_s
        self.is_pinned = is_pinned
        self.progress = 0.0
        self.num_leases = 0
        self.last_used = time.monotonic()
        self.ready: asyncio.Task[Worker]
        self.idle = asyncio.Event()  # set while nobody holds a lease
        self.idle.set()
        self.memory_bytes = estimate(installed.metadata, options)
        self._expiry: asyncio.TimerHandle | None = None

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
    def expires_at(self) -> float | None:
        """Epoch seconds when it will be unloaded if nobody asks; None while in use or kept for ever."""
        if self._expiry is None:
            return None
        return time.time() + self._expiry.when() - asyncio.get_running_loop().time()

    def acquire(self) -> None:
        self.num_leases += 1
        self.idle.clear()
        self._stop_clock()

    def release(self, keep_alive_s: float | None) -> float:
        """Give a lease back; returns the seconds that the model may stay."""
        self.num_leases -= 1
        self.last_used = time.monotonic()
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
        if self.num_leases == 0:
            self.idle.set()
        return self.keep_alive_s

    def start_clock(self, seconds: float, unload: Any) -> None:
        self._stop_clock()
        if seconds != math.inf and not self.is_pinned:
            self._expiry = asyncio.get_running_loop().call_later(seconds, unload)

    def _stop_clock(self) -> None:
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


class ModelManager:
    """One per server; everything here runs on its event loop."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self._models: dict[str, LoadedModel] = {}
        self._failures: dict[str, MyLLMError] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._admission = asyncio.Lock()  # one decision about memory at a time; loads themselves run side by side

    @asynccontextmanager
    async def lease(self, name: str, keep_alive_s: float | None = None) -> AsyncIterator[ModelLease]:
        """The model, loaded and pinned for as long as the context lasts.

        keep_alive_s: how long it stays afterwards, from now on; None leaves its own. Raises ModelNotFound,
        ModelLoadFailed, InsufficientMemory or WorkerDied.
        """
        installed = await asyncio.to_thread(self.store.resolve, name)
        model = await self._loaded(installed, {})
        model.acquire()
        try:
            worker = await asyncio.shield(model.ready)
            yield ModelLease(model, worker)
        finally:
            seconds = model.release(keep_alive_s)
            if model.num_leases == 0:
                self._start_clock(model, seconds)

    async def load(self, name: str, overrides: Mapping[str, Any], *, keep_alive_s: float | None = None, pin: bool | None = None) -> str:
        """Load with these engine options; a loaded model is loaded anew only where they differ. Returns its name."""
        installed = await asyncio.to_thread(self.store.resolve, name)
        model = await self._loaded(installed, overrides)
        if pin is not None:
            model.is_pinned = pin
        model.acquire()
        try:
            await asyncio.shield(model.ready)
        finally:
            seconds = model.release(keep_alive_s)
            if model.num_leases == 0:
                self._start_clock(model, seconds)
        return installed.name

    async def unload(self, name: str) -> str:
        """Let running requests finish (bounded), then end the worker. Fine for a model that is not loaded."""
        installed = await asyncio.to_thread(self.store.resolve, name)
        await self.forget(installed.name)
        return installed.name

    async def forget(self, name: str) -> None:
        """Unload by the exact name, which the store may no longer know."""
        self._failures.pop(name, None)
        model = self._models.pop(name, None)
        if model is not None:
            await self._retire(model, self.settings.drain_timeout_s)

    async def close(self) -> None:
        """End all workers, at once: the server has drained its requests before."""
        models, self._models = list(self._models.values()), {}
        await asyncio.gather(*(self._retire(model, 0.0) for model in models), *self._unloading, return_exceptions=True)

    def loaded(self) -> list[LoadedModel]:
        """What is loading or loaded, by name."""
        return sorted((model for model in self._models.values() if model.is_alive), key=lambda model: model.name)

    def status(self, name: str) -> Status:
        model = self._models.get(name)
        if model is not None and model.is_alive:
            return "loaded" if model.ready.done() else "loading"
        return "failed" if name in self._failures else "unloaded"

    async def _loaded(self, installed: InstalledModel, overrides: Mapping[str, Any]) -> LoadedModel:
        """The entry for this model: the one there is, or a new one whose load has begun."""
        async with self._admission:
            model = self._models.get(installed.name)
            wanted = msgspec.structs.replace(self.settings.engine_options(installed.name), **overrides)
            if model is not None and model.is_alive and not (overrides and model.options != wanted):
                return model
            if model is not None:
                del self._models[installed.name]
                await self._retire(model, self.settings.drain_timeout_s if model.is_alive else 0.0)
            model = LoadedModel(installed, wanted, self.settings.keep_alive_s(installed.name), self.settings.is_pinned(installed.name))
            await self._make_room(model)
            model.ready = asyncio.create_task(self._load(model))
            model.ready.add_done_callback(lambda task: task.cancelled() or task.exception())  # all who waited may be gone
            self._models[installed.name] = model
            return model

    async def _load(self, model: LoadedModel) -> Worker:
        def report(fraction: float) -> None:
            model.progress = fraction

        started = time.monotonic()
        try:
            async with asyncio.timeout(None if self.settings.load_timeout_s == math.inf else self.settings.load_timeout_s):
                worker = await Worker.start(
                    model.name, model.installed.path, model.options, queue_size=self.settings.queue_size, on_progress=report
                )
        except (TimeoutError, MyLLMError) as exc:
            error = (
                exc
                if isinstance(exc, MyLLMError)
                else ModelLoadFailed(f"model '{model.name}' was not ready after {self.settings.load_timeout_s:g} s; raise load_timeout_s")
            )
            self._failures[model.name] = error
            self._strike(model)
            log.error("model '%s' did not load: %s", model.name, error.message)
            raise error from None
        self._failures.pop(model.name, None)
        model.memory_bytes = worker.info.memory_bytes
        worker.died.add_done_callback(lambda death: self._mourn(model, death.result().message))
        log.info("model '%s' loaded in %.1f s", model.name, time.monotonic() - started)
        return worker

    def _mourn(self, model: LoadedModel, message: str) -> None:
        log.error("%s", message)
        self._strike(model)

    def _strike(self, model: LoadedModel) -> None:
        """Off the list: it holds no memory any more, and the next lease loads it anew."""
        if self._models.get(model.name) is model:
            del self._models[model.name]

    async def _make_room(self, model: LoadedModel) -> None:
        """Unload idle models until the estimate fits. Raises InsufficientMemory with both numbers."""
        needed, free = model.memory_bytes, self._free_bytes()
        tenants = [Tenant(m.name, m.memory_bytes, m.last_used, m.num_leases == 0, m.is_pinned) for m in self._models.values()]
        names = choose_evictions(tenants, needed, free)
        if names is None:
            raise InsufficientMemory(f"Model requires more system memory ({needed / GIB:.1f} GiB) than is available ({free / GIB:.1f} GiB)")
        for name in names:
            log.info("unloading '%s' to make room for '%s'", name, model.name)
            await self._retire(self._models.pop(name), 0.0)

    def _free_bytes(self) -> int:
        available: int = psutil.virtual_memory().available
        if self.settings.memory_budget is None:
            return available
        return min(available, self.settings.memory_budget - sum(model.memory_bytes for model in self._models.values()))

    def _start_clock(self, model: LoadedModel, seconds: float) -> None:
        if self._models.get(model.name) is model:
            model.start_clock(seconds, lambda: self._expire(model))

    def _expire(self, model: LoadedModel) -> None:
        if self._models.get(model.name) is not model or model.num_leases:
            return
        log.info("unloading '%s': not used for %g s", model.name, model.keep_alive_s)
        del self._models[model.name]
        task = asyncio.create_task(self._retire(model, 0.0))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _retire(self, model: LoadedModel, patience_s: float) -> None:
        """End a model that is no longer listed, once its users are done or `patience_s` is over."""
        model.start_clock(math.inf, None)
        if model.num_leases and patience_s:
            try:
                await asyncio.wait_for(model.idle.wait(), patience_s)
            except TimeoutError:
                log.warning("model '%s': %d requests still ran after %g s, cancelled", model.name, model.num_leases, patience_s)
        if not model.ready.done():
            model.ready.cancel()
        try:
            worker = await model.ready
        except (MyLLMError, asyncio.CancelledError):
            return
        await worker.stop()
