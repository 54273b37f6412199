"""The manager over the real store and real workers of the bundled model."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from live_server import pause

from myllm.config import EngineOptions, Settings
from myllm.errors import InsufficientMemory, ModelLoadFailed, ModelNotFound, WorkerDied
from myllm.manager import PATIENCE_S, ModelManager
from myllm.memory import estimate, plan_load
from myllm.store.catalog import Catalog, bundled_model
from myllm.store.metadata import read_metadata
from myllm.store.store import Store
from myllm.types import SamplingParams, Span

TINY = read_metadata(bundled_model())
ESTIMATE = estimate(TINY, EngineOptions(), plan_load(TINY, EngineOptions(), has_gpu=False)).ram  # what a load asks for

Test = Callable[[ModelManager], Awaitable[None]]


def with_manager(home: Path, test: Test, settings: Settings | None = None) -> None:
    async def run() -> None:
        before = set(psutil.Process().children())
        manager = ModelManager(Store(home, bundled=bundled_model(), catalog=Catalog.load()), settings or Settings())
        for name in ("one", "two", "three"):
            manager.store.copy("tiny", name)
        try:
            await test(manager)
        finally:
            await manager.close()
        assert set(psutil.Process().children()) <= before

    asyncio.run(run())


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_true():
            await asyncio.sleep(0.01)


def test_callers_of_one_load_share_it(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        async def worker_of(name: str) -> int:
            async with manager.lease(name) as lease:
                return lease.worker.pid

        pids = await asyncio.gather(*(worker_of(name) for name in ("tiny", "tiny:latest", "TINY", "tiny")))

        assert len(set(pids)) == 1 and len(manager.loaded()) == 1

    with_manager(tmp_path, test)


def test_models_load_side_by_side_and_are_listed_by_name(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        await asyncio.gather(*(manager.load(name, {}) for name in ("two", "one")))

        assert [model.name for model in manager.loaded()] == ["one", "two"]
        assert (manager.status("one"), manager.status("three")) == ("loaded", "unloaded")

    with_manager(tmp_path, test)


def test_a_model_goes_after_its_keep_alive_but_never_under_a_lease(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        async with manager.lease("tiny", keep_alive_s=0.0):
            async with manager.lease("tiny"):
                pass
            assert manager.status("tiny") == "loaded"

        await until(lambda: manager.status("tiny") == "unloaded")

    with_manager(tmp_path, test)


def test_a_model_that_is_let_go_goes_at_once_or_with_its_last_user(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        await manager.load("one", {}, pin=True)
        manager.let_go("one")
        assert manager.status("one") == "unloaded"

        async with manager.lease("tiny"):
            manager.let_go("tiny")
            assert manager.status("tiny") == "loaded"
        await until(lambda: manager.status("tiny") == "unloaded")
        manager.let_go("two")  # not loaded, and nothing to do

    with_manager(tmp_path, test)


def test_a_lease_may_ask_for_engine_options(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        lengths = []
        for overrides in ({"context_size": 256}, {}, {"context_size": 128}, {"context_size": 512}):
            async with manager.lease("tiny", overrides=overrides) as lease:
                lengths.append(lease.worker.info.context_length)

        assert lengths == [256, 256, 256, 512]

    with_manager(tmp_path, test)


def test_a_pinned_model_and_one_kept_for_ever_have_no_expiry(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        await manager.load("one", {}, pin=True)
        await manager.load("two", {}, keep_alive_s=float("inf"))
        await manager.load("three", {}, keep_alive_s=60.0)

        one, three, two = manager.loaded()
        assert one.expires_at is None and two.expires_at is None and three.expires_at is not None

    with_manager(tmp_path, test)


def test_loading_with_other_options_loads_anew_and_with_the_same_does_not(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        pids = []
        for overrides in ({}, {"parallel": 2}, {"parallel": 2}, {}, {"context_size": 512}):
            await manager.load("tiny", overrides)
            (model,) = manager.loaded()
            assert model.worker is not None
            pids.append(model.worker.pid)

        assert pids[0] != pids[1] == pids[2] == pids[3] == pids[4]  # a smaller context is served by the larger one
        assert model.worker.info.parallel == 2 and model.worker.info.context_length == 2048

    with_manager(tmp_path, test)


def test_a_dead_worker_takes_its_model_along_and_the_next_lease_loads_it_anew(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        async with manager.lease("tiny") as lease:
            os.kill(lease.worker.pid, signal.SIGKILL)
            await lease.worker.died

        async with manager.lease("tiny") as lease:
            assert await lease.worker.ping()

    with_manager(tmp_path, test)


def test_a_model_comes_back_by_itself_after_a_death_and_is_failed_after_three_in_a_row(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        await manager.load("tiny", {})
        for _ in range(3):
            await until(lambda: manager.status("tiny") == "loaded" and manager.loaded()[0].worker is not None)
            worker = manager.loaded()[0].worker
            assert worker is not None
            os.kill(worker.pid, signal.SIGKILL)
            await worker.died

        await until(lambda: manager.status("tiny") == "failed")
        with pytest.raises(WorkerDied, match=r"3 times in a row .* SIGKILL"):
            async with manager.lease("tiny"):
                pass

        assert await manager.load("tiny", {}) == "tiny"
        async with manager.lease("tiny") as lease:
            assert await lease.worker.ping()

    with_manager(tmp_path, test)


def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myllm.worker.handle.HEARTBEAT_S", 0.05)

    async def test(manager: ModelManager) -> None:
        async with manager.lease("tiny") as lease:
            generation = await lease.worker.generate((Span("Once"),), SamplingParams(ignore_eos=True))
            pause(lease.worker.pid)

            with pytest.raises(WorkerDied, match="no sign of life for 2 s"):
                async for _ in generation:
                    pass

        async with manager.lease("tiny") as lease:
            assert await lease.worker.ping()

    with_manager(tmp_path, test, Settings(hang_timeout_s=2))


def test_closing_in_the_middle_of_a_load_still_ends_the_worker_that_it_evicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling the load cancelled the eviction with it, and a worker that hung was never killed."""
    monkeypatch.setattr("myllm.worker.handle.EXIT_WAIT_S", 0.3)

    async def test(manager: ModelManager) -> None:
        async with manager.lease("one") as lease:
            pause(lease.worker.pid)
            evicted = psutil.Process(lease.worker.pid)
        loading = asyncio.create_task(manager.load("two", {}))
        await until(lambda: manager.status("two") == "loading")

        await manager.close()

        await asyncio.gather(loading, return_exceptions=True)
        assert not evicted.is_running()

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 2))


def test_room_is_made_by_the_idle_model_that_was_used_longest_ago(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        for name in ("one", "two", "one"):
            async with manager.lease(name):
                pass

        async with manager.lease("three"):
            assert [model.name for model in manager.loaded()] == ["one", "three"]

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 5 // 2))


def test_a_model_without_room_waits_for_the_one_in_use(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        async with manager.lease("one"):
            waiting = asyncio.create_task(manager.load("two", {}))
            await until(lambda: "two" in manager.waiting())
            assert [model.name for model in manager.loaded()] == ["one"]

        await waiting
        assert [model.name for model in manager.loaded()] == ["two"] and not manager.waiting()

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 2))


def test_what_does_not_even_fit_alone_is_told_with_both_numbers(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        with pytest.raises(InsufficientMemory, match=r"system memory \(0\.1 GiB\) than is available \(0\.0 GiB\)"):
            await manager.load("two", {})

        assert not manager.loaded()

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE // 4, context_size=16_384))


def test_a_context_that_nobody_named_shrinks_until_it_fits(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        await manager.load("one", {})

        worker = manager.loaded()[0].worker
        assert worker is not None and 2048 <= worker.info.num_cells < 16_384

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 4))


def test_three_models_that_fit_two_at_a_time_serve_sixty_requests_with_few_loads(tmp_path: Path) -> None:
    """First come, first served would load about 21 times; each model has to be loaded once at the least."""
    names = random.Random(4).choices(["one", "two", "three"], k=60)

    async def test(manager: ModelManager) -> None:
        async def ask(name: str) -> str:
            async with manager.lease(name) as lease:
                generation = await lease.worker.generate((Span("Once upon a time"),), SamplingParams(max_tokens=8))
                async for _ in generation:
                    pass
                return lease.name

        assert await asyncio.gather(*(ask(name) for name in names)) == names
        assert manager.num_loads <= 6

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 5 // 2))


def test_a_model_that_has_waited_long_enough_holds_back_newcomers_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myllm.manager.PATIENCE_S", 0.0)

    async def test(manager: ModelManager) -> None:
        order: list[str] = []

        async def use(name: str) -> None:
            async with manager.lease(name):
                order.append(name)

        async with manager.lease("one"):
            starved = asyncio.create_task(use("two"))
            await until(lambda: "two" in manager.waiting())
            newcomer = asyncio.create_task(use("one"))
            await until(lambda: "one" in manager.waiting())
            assert order == []

        await asyncio.gather(starved, newcomer)
        assert order == ["two", "one"]

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 2))


def test_whoever_waits_alone_keeps_its_place_while_others_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lease that was given back made it a newcomer again, so a busy model could keep another one out for ever."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("myllm.manager.time", SimpleNamespace(monotonic=lambda: clock.now))

    async def test(manager: ModelManager) -> None:
        async with manager.lease("one"):
            async with manager.lease("one"):
                starved = asyncio.create_task(manager.load("two", {}))
                await until(lambda: "two" in manager.waiting())
                clock.now += PATIENCE_S * 0.75
            await asyncio.sleep(0)  # it looks again, in vain
            clock.now += PATIENCE_S * 0.75
            newcomer = asyncio.create_task(manager.load("one", {}))
            await until(lambda: newcomer.done() or "one" in manager.waiting())
            assert manager.waiting() == {"two": 1, "one": 1}

        assert await asyncio.gather(starved, newcomer) == ["two", "one"]

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 2))


def test_newcomers_are_let_in_once_whom_they_were_held_back_for_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They waited on, until somebody gave a lease back: as long as the longest answer took."""
    monkeypatch.setattr("myllm.manager.PATIENCE_S", 0.0)

    async def test(manager: ModelManager) -> None:
        async with manager.lease("one"):
            leaving = asyncio.create_task(manager.load("two", {}))
            await until(lambda: "two" in manager.waiting())
            newcomer = asyncio.create_task(manager.load("one", {}))
            await until(lambda: "one" in manager.waiting())

            leaving.cancel()

            await until(newcomer.done)
            assert not manager.waiting()

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 2))


def test_a_task_that_has_a_lease_is_not_held_back_for_a_model_that_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choices of one request each take a lease; a second one that had to wait for the first waited for itself."""
    monkeypatch.setattr("myllm.manager.PATIENCE_S", 0.0)

    async def test(manager: ModelManager) -> None:
        async with manager.lease("one"):
            starved = asyncio.create_task(manager.load("two", {}))
            await until(lambda: "two" in manager.waiting())

            async with asyncio.timeout(30), manager.lease("one"):
                assert not starved.done()

        assert await starved == "two"

    with_manager(tmp_path, test, Settings(memory_budget=ESTIMATE * 3 // 2))


def test_a_failed_load_is_told_to_all_who_waited_and_tried_again_when_asked(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        (tmp_path / "models").mkdir()
        broken = bundled_model().read_bytes().replace(b"blk.3.attn_q.weight", b"blk.3.attn_x.weight")
        (tmp_path / "models" / "broken.gguf").write_bytes(broken)

        results = await asyncio.gather(*(manager.load("broken", {}) for _ in range(3)), return_exceptions=True)

        assert all(isinstance(result, ModelLoadFailed) for result in results)
        assert manager.status("broken") == "failed" and not manager.loaded()
        (tmp_path / "models" / "broken.gguf").write_bytes(bundled_model().read_bytes())
        assert await manager.load("broken", {}) == "broken" and manager.status("broken") == "loaded"

    with_manager(tmp_path, test)


def test_a_caller_that_leaves_does_not_stop_the_load_of_others(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        leaving = asyncio.create_task(manager.load("tiny", {}))
        await until(lambda: manager.status("tiny") == "loading")
        staying = asyncio.create_task(manager.load("tiny", {}))

        leaving.cancel()

        assert await staying == "tiny" and manager.status("tiny") == "loaded"

    with_manager(tmp_path, test)


def test_unloading_what_is_not_loaded_is_fine_and_what_is_unknown_is_not(tmp_path: Path) -> None:
    async def test(manager: ModelManager) -> None:
        assert await manager.unload("tiny") == "tiny"
        with pytest.raises(ModelNotFound):
            await manager.unload("nobody")

    with_manager(tmp_path, test)
