"""The ModelManager: which models are loaded, for whom, and for how long.

A model is used under a lease: ready and pinned, or an error. Callers of one load share it. A leased model is never
unloaded under its users, except when somebody asks for that by name, and then they get a bounded time to finish.

Where models do not fit together they take turns. A request for a loaded model is served at once; one for a model that
has no room waits until enough others are idle, and its load then serves all who waited for it. A model that has waited
for PATIENCE_S holds back new requests for the others, so they run dry and make room: two models that cannot live side by
side change places once in a while and not with every request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from myllm.config import EngineOptions, Settings
from myllm.errors import InsufficientMemory, ModelLoadFailed, MyLLMError, QueueFull, Unavailable, WorkerDied
from myllm.free_memory import free_bytes
from myllm.loaded_model import LoadedModel, ModelLease
from myllm.memory import Footprint, choose_evictions, estimate, plan_load, smaller_plans
from myllm.store.store import InstalledModel, Store
from myllm.tally import Tally
from myllm.types import GPU, LoadPlan
from myllm.worker.handle import Worker, find_gpus

log = logging.getLogger("myllm.manager")

Status = Literal["unloaded", "loading", "loaded", "failed"]
GIB = 1 << 30
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
PATIENCE_S = 2.0
MAX_DEATHS = 3
FAILED_S = 60.0  # how long a model that keeps dying is refused at once


class ModelManager:
    """One per server; everything here runs on its event loop."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.num_loads = 0
        self.tally = Tally()
        self._models: dict[str, LoadedModel] = {}
        self._failures: dict[str, MyLLMError] = {}
        self._deaths: dict[str, Deaths] = {}  # of workers in a row, by model
        self._background: set[asyncio.Task[None]] = set()
        self._gpus: list[GPU] | None = None  # None until somebody looked
        self._leaving: dict[asyncio.Task[None], LoadedModel] = {}  # unlisted, but their memory is not free yet
        self._queue: dict[str, _Waiting] = {}  # models without room, by arrival of their first request
        self._changed = asyncio.Event()  # room may have appeared; replaced each time it is set

    @asynccontextmanager
    async def lease(
        self, name: str, keep_alive_s: float | None = None, overrides: Mapping[str, Any] = NO_OPTIONS
    ) -> AsyncIterator[ModelLease]:
        """The model, loaded and pinned for as long as the context lasts; with these engine options, where there are any.

        keep_alive_s: how long it stays afterwards, from now on; None leaves its own. Raises ModelNotFound,
        ModelLoadFailed, InsufficientMemory, QueueFull or WorkerDied.
        """
        installed = await asyncio.to_thread(self.store.resolve, name)
        self._refuse_failed(installed.name)
        model = await self._acquire(installed, overrides)
        try:
            with model.held_by(asyncio.current_task()):
                yield ModelLease(model, await asyncio.shield(model.ready))
        finally:
            self._release(model, keep_alive_s, has_served=True)

    async def load(self, name: str, overrides: Mapping[str, Any], *, keep_alive_s: float | None = None, pin: bool | None = None) -> str:
        """Load with these engine options; a loaded model is loaded anew only where they differ. Returns its name."""
        installed = await asyncio.to_thread(self.store.resolve, name)
        self._deaths.pop(installed.name, None)  # asked for by name: a new beginning
        model = await self._acquire(installed, overrides)
        if pin is not None:
            model.is_pinned = pin
        try:
            await asyncio.shield(model.ready)
        finally:
            self._release(model, keep_alive_s)
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

    def let_go(self, name: str) -> None:
        """Unload by the exact name without waiting: now, or as soon as its last user is done."""
        if model := self._models.get(name):
            model.keep_alive_s, model.is_pinned = 0.0, False
            self._expire(model)

    async def close(self) -> None:
        """End all workers, at once: the server has drained its requests before."""
        for task in self._background:
            task.cancel()
        models, self._models = list(self._models.values()), {}
        await asyncio.gather(*(self._retire(model, 0.0) for model in models), *self._leaving, *self._background, return_exceptions=True)

    def loaded(self) -> list[LoadedModel]:
        """What is loading or loaded, by name."""
        return sorted((model for model in self._models.values() if model.is_alive), key=lambda model: model.name)

    def waiting(self) -> dict[str, int]:
        """How many requests wait for room, by model."""
        return {name: waiting.count for name, waiting in self._queue.items()}

    def status(self, name: str) -> Status:
        model = self._models.get(name)
        if model is not None and model.is_alive:
            return "loaded" if model.ready.done() else "loading"
        return "failed" if name in self._failures else "unloaded"

    async def _acquire(self, installed: InstalledModel, overrides: Mapping[str, Any]) -> LoadedModel:
        """The entry for this model with a lease on it: the one there is, or a new one whose load has begun."""
        options = msgspec.structs.replace(self.settings.engine_options(installed.name, installed.engine_options), **overrides)
        patience_s = self.settings.load_timeout_s
        try:
            async with asyncio.timeout(None if patience_s == math.inf else patience_s), contextlib.AsyncExitStack() as queue:
                waiting: _Waiting | None = None
                while True:
                    if installed.name not in self._models:
                        await self._look_for_gpus()
                    model = self._find(installed, options, overrides)
                    if model is not None:
                        model.acquire()
                        return model
                    waiting = waiting or queue.enter_context(self._waiting(installed.name))  # once: it keeps its place
                    await self._changed.wait()
        except TimeoutError:
            message = f"model '{installed.name}' found no room in memory for {patience_s:g} s: others are in use"
            raise Unavailable(message, retry_after_s=30) from None

    def _find(self, installed: InstalledModel, options: EngineOptions, overrides: Mapping[str, Any]) -> LoadedModel | None:
        """A usable entry now, made if there is room; None where the caller must wait for a change."""
        model = self._models.get(installed.name)
        if model is not None and model.is_alive and model.satisfies(overrides):
            return None if self._must_yield(installed.name) and not model.is_held_by(asyncio.current_task()) else model
        if model is not None:  # other options were asked for, or it is dead
            del self._models[installed.name]
            self._retire_soon(model, self.settings.drain_timeout_s)
            if model.is_alive:
                return None
        return self._start(installed, options)

    def _start(self, installed: InstalledModel, options: EngineOptions) -> LoadedModel | None:
        """Begin a load if there is or can be made room for it; None where it has to wait for others.

        Raises InsufficientMemory with both numbers where it would not fit alone.
        """
        fit = self._fit(installed, options)
        if fit is None:
            return None
        plan, footprint, evicted = fit
        model = LoadedModel(
            installed,
            options,
            plan,
            footprint,
            keep_alive_s=self.settings.keep_alive_s(installed.name),
            is_pinned=self.settings.is_pinned(installed.name),
        )
        model.ready = asyncio.create_task(self._load(model, [self._evict(name, installed.name) for name in evicted]))
        model.ready.add_done_callback(lambda task: task.cancelled() or task.exception())  # all who waited may be gone
        self._models[installed.name] = model
        return model

    def _fit(self, installed: InstalledModel, options: EngineOptions) -> tuple[LoadPlan, Footprint, list[str]] | None:
        """The best plan that fits, and whom to unload for it; None: not now, but when others are idle."""
        meta = installed.metadata
        wish = plan_load(meta, options, has_gpu=bool(self._gpus))
        free, tenants = self._free(), [model.tenant for model in self._models.values()]
        leaving = [model.reserved for model in self._leaving.values()]
        alone = sum([*leaving, *(tenant.memory for tenant in tenants if not tenant.is_pinned)], free)
        for plan in (wish, *smaller_plans(wish, options)):
            footprint = estimate(meta, options, plan)
            evicted = choose_evictions(tenants, footprint, free)
            if evicted is not None:
                if plan != wish:
                    log.warning("'%s' does not fit as it would: it gets %s instead of %s", installed.name, plan, wish)
                return plan, footprint, evicted
            if footprint.fits_in(alone):
                return None
        if footprint.ram <= alone.ram:
            needed, available, kind = footprint.gpu, alone.gpu, "GPU memory"
        else:
            needed, available, kind = footprint.ram, alone.ram, "system memory"
        raise InsufficientMemory(f"Model requires more {kind} ({needed / GIB:.1f} GiB) than is available ({available / GIB:.1f} GiB)")

    def _must_yield(self, name: str) -> bool:
        """Has another model waited so long that requests for this one have to wait, too?

        Those who waited even longer for this one do not yield: a load serves all who were there before it.
        """
        now = time.monotonic()
        mine = self._queue[name].since if name in self._queue else now
        return any(waiting.since < mine and now - waiting.since >= PATIENCE_S for other, waiting in self._queue.items() if other != name)

    async def _load(self, model: LoadedModel, evictions: list[asyncio.Task[None]]) -> Worker:
        def report(fraction: float) -> None:
            model.progress = fraction

        if deaths := self._deaths.get(model.name):
            await asyncio.sleep(deaths.pause_s)
        if evictions:  # their memory first: two at once is how a machine runs out of it
            await asyncio.wait(evictions)  # which goes on without us if this load is cancelled
        started = time.monotonic()
        self.num_loads += 1
        limit_s = self.settings.load_timeout_s
        try:
            async with asyncio.timeout(None if limit_s == math.inf else limit_s):
                worker = await Worker.start(
                    model.name,
                    model.installed.path,
                    model.options,
                    model.plan,
                    queue_size=self.settings.queue_size,
                    on_progress=report,
                )
        except TimeoutError:
            error = ModelLoadFailed(f"model '{model.name}' was not ready after {limit_s:g} s; raise load_timeout_s")
            raise self._failed(model, error) from None
        except MyLLMError as error:
            raise self._failed(model, error) from None
        self._failures.pop(model.name, None)
        self.tally.add(worker)
        worker.died.add_done_callback(lambda death: self._mourn(model, death.result()))
        self._in_background(worker.watch(self.settings.hang_timeout_s))
        log.info("model '%s' loaded in %.1f s", model.name, time.monotonic() - started)
        return worker

    def _failed(self, model: LoadedModel, error: MyLLMError) -> MyLLMError:
        self._failures[model.name] = error
        log.error("model '%s' did not load: %s", model.name, error.message)
        self._strike(model)
        return error

    def _mourn(self, model: LoadedModel, death: WorkerDied) -> None:
        """A worker died: it comes back after a pause, and after the third death in a row only when asked for."""
        log.error("%s", death.message)
        self._strike(model)
        deaths = self._deaths.setdefault(model.name, Deaths())
        deaths.count += 1
        deaths.last = time.monotonic()
        if deaths.count < MAX_DEATHS:
            self._in_background(self._revive(model))
        else:
            self._failures[model.name] = death
            log.error("model '%s' died %d times in a row; load it by hand to try again", model.name, deaths.count)

    async def _revive(self, model: LoadedModel) -> None:
        """Load it again as it was, unless that is somebody else's doing by then."""
        with contextlib.suppress(MyLLMError):
            revived = await self._acquire(model.installed, {})
            try:
                await asyncio.shield(revived.ready)
            finally:
                self._release(revived, None)

    def _refuse_failed(self, name: str) -> None:
        """Raises what a model that keeps dying died of, until it has had time to be repaired."""
        deaths = self._deaths.get(name)
        if deaths and deaths.count >= MAX_DEATHS and time.monotonic() - deaths.last < FAILED_S:
            told = self._failures[name].message if name in self._failures else "its worker died"
            raise WorkerDied(f"model '{name}' failed {deaths.count} times in a row and is not loaded again by itself: {told}")

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _strike(self, model: LoadedModel) -> None:
        """Off the list: it holds no memory any more, and the next lease loads it anew."""
        if self._models.get(model.name) is model:
            del self._models[model.name]
        self._tell_change()

    def _free(self) -> Footprint:
        """What a new load may take: free memory less what begun loads will still touch, within the budget."""
        models = self._models.values()
        free = Footprint(free_bytes(), sum(gpu.free_bytes for gpu in self._gpus or ()))
        free -= sum((model.pending for model in models), Footprint(0))
        if self.settings.memory_budget is None:
            return free
        return Footprint(min(free.ram, self.settings.memory_budget - sum(model.reserved.ram for model in models)), free.gpu)

    async def _look_for_gpus(self) -> None:
        """Before a load: what the GPUs have free now. A machine without any is asked once."""
        if self._gpus is None or self._gpus:
            self._gpus = await find_gpus()

    def _waiting(self, name: str) -> _Waiting:
        """Where requests for a model without room stand; the first one's arrival counts for all of them."""
        waiting = self._queue.setdefault(name, _Waiting(self, name))
        if waiting.count >= self.settings.queue_size:
            raise QueueFull(f"{waiting.count:,} requests wait for model '{name}' to find room in memory", retry_after_s=10)
        return waiting

    def _release(self, model: LoadedModel, keep_alive_s: float | None, *, has_served: bool = False) -> None:
        model.release(keep_alive_s)
        if has_served and model.is_alive:
            self._deaths.pop(model.name, None)
        if model.num_leases == 0 and self._models.get(model.name) is model:
            model.start_clock(lambda: self._expire(model))
        self._tell_change()

    def _expire(self, model: LoadedModel) -> None:
        if self._models.get(model.name) is not model or model.num_leases:
            return
        log.info("unloading '%s': not used for %g s", model.name, model.keep_alive_s)
        del self._models[model.name]
        self._retire_soon(model, 0.0)

    def _evict(self, name: str, newcomer: str) -> asyncio.Task[None]:
        log.info("unloading '%s' to make room for '%s'", name, newcomer)
        return self._retire_soon(self._models.pop(name), 0.0)

    def _retire_soon(self, model: LoadedModel, patience_s: float) -> asyncio.Task[None]:
        task = asyncio.create_task(self._retire(model, patience_s))
        self._leaving[task] = model
        task.add_done_callback(self._left)
        return task

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._leaving[task]
        self._tell_change()

    async def _retire(self, model: LoadedModel, patience_s: float) -> None:
        """End a model that is no longer listed, once its users are done or `patience_s` is over."""
        model.stop_clock()
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

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class Deaths:
    """Workers of one model that died with nothing served in between."""

    count: int = 0
    last: float = 0.0

    @property
    def pause_s(self) -> float:
        """How long the next load still waits: 0.25 s after the first death, twice as long after each further one."""
        return max(self.last + 0.125 * (1 << self.count) - time.monotonic(), 0.0)


class _Waiting:
    """The requests that wait for one model's room; the entry goes with the last of them."""

    def __init__(self, manager: ModelManager, name: str) -> None:
        self.manager = manager
        self.name = name
        self.since = time.monotonic()
        self.count = 0

    def __enter__(self) -> _Waiting:
        self.count += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.count -= 1
        if not self.count:
            self.manager._queue.pop(self.name, None)
            self.manager._tell_change()  # those who were held back for it need not wait any more
