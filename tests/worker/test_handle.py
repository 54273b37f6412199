"""The server's end of a real worker process with the bundled model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from live_server import pause

from myllm.config import EngineOptions
from myllm.errors import ContextLengthExceeded, InvalidRequest, ModelLoadFailed, QueueFull, WorkerDied
from myllm.memory import plan_load
from myllm.store.metadata import read_metadata
from myllm.types import FinishReason, LoadPlan, SamplingParams, Span
from myllm.worker.handle import Generation, Worker, find_gpus

TINY = Path(__file__).parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
ONCE = (Span("Once upon a time"),)
GREEDY = SamplingParams(temperature=0.0, max_tokens=20)
ENDLESS = SamplingParams(temperature=0.0, ignore_eos=True)
ROOMY = {"context_size": 100_000}  # an answer that never ends fills it in minutes


def plan_of(**options: int) -> LoadPlan:
    return plan_load(read_metadata(TINY), EngineOptions(**options), has_gpu=False)


@asynccontextmanager
async def running(path: Path = TINY, queue_size: int = 8, **options: int) -> AsyncIterator[Worker]:
    worker = await Worker.start("tiny", path, EngineOptions(**options), plan_of(**options), queue_size=queue_size)
    try:
        yield worker
    finally:
        await worker.stop()


def with_worker(test: Callable[[Worker], Awaitable[None]], **options: int) -> None:
    async def run() -> None:
        async with running(**options) as worker:
            await test(worker)

    asyncio.run(run())


async def text_of(generation: Generation) -> tuple[str, FinishReason | None]:
    text, finish = "", None
    async for deltas in generation:
        text += "".join(delta.text for delta in deltas)
        finish = deltas[-1].finish
    return text, finish


def test_a_prompt_as_text_and_as_tokens_gives_the_same() -> None:
    async def test(worker: Worker) -> None:
        tokens = await worker.tokenize(ONCE)
        sure = GREEDY.updated({"max_tokens": 3})  # then two words are all but equally likely
        from_text = await text_of(await worker.generate(ONCE, sure))
        from_tokens = await text_of(await worker.generate(tokens, sure))

        assert from_text == from_tokens and from_text[1] is FinishReason.LENGTH
        assert await worker.detokenize(tokens) == worker.info.bos_token + "Once upon a time"

    with_worker(test)


def test_progress_is_told_up_to_the_end() -> None:
    seen: list[float] = []

    async def run() -> None:
        worker = await Worker.start("tiny", TINY, EngineOptions(), plan_of(), queue_size=1, on_progress=seen.append)
        await worker.stop()

    asyncio.run(run())

    assert seen == sorted(seen) and seen[-1] == 1.0


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        ((Span("word " * 3000),), GREEDY, ContextLengthExceeded),
        ([], GREEDY, InvalidRequest),
        ([10**6], GREEDY, InvalidRequest),
        (ONCE, SamplingParams(logit_bias={10**6: 1.0}), InvalidRequest),
    ],
)
def test_what_is_wrong_is_raised_before_any_output(prompt: object, params: SamplingParams, error: type[Exception]) -> None:
    async def test(worker: Worker) -> None:
        with pytest.raises(error):
            await worker.generate(prompt, params)  # type: ignore[arg-type]

        assert (await text_of(await worker.generate(ONCE, GREEDY)))[0]
        assert worker.num_requests == 0

    with_worker(test)


def test_a_cancelled_generation_frees_its_slot() -> None:
    async def test(worker: Worker) -> None:
        generation = await worker.generate(ONCE, ENDLESS)
        async for _ in generation:
            break

        generation.cancel()

        assert (await worker.ping()).running == 0 and worker.num_requests == 0

    with_worker(test, **ROOMY)


def test_a_caller_that_leaves_before_the_answer_leaves_nothing_behind() -> None:
    async def test(worker: Worker) -> None:
        asking = asyncio.create_task(worker.generate(ONCE, ENDLESS))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        stats = await worker.ping()
        assert (stats.running, stats.waiting, worker.num_requests) == (0, 0, 0)

    with_worker(test, **ROOMY)


def test_a_full_queue_refuses_with_the_time_to_wait() -> None:
    async def test(worker: Worker) -> None:
        taken = [await worker.generate(ONCE, ENDLESS) for _ in range(3)]

        with pytest.raises(QueueFull) as refused:
            await worker.generate(ONCE, GREEDY)

        assert refused.value.retry_after_s
        taken[0].cancel()
        await worker.generate(ONCE, GREEDY)

    with_worker(test, queue_size=2, parallel=1, **ROOMY)


def test_a_killed_worker_fails_everything_that_waits_with_its_signal() -> None:
    async def test(worker: Worker) -> None:
        streaming = await worker.generate(ONCE, ENDLESS)
        pause(worker.pid)
        asking = asyncio.create_task(worker.tokenize(ONCE))
        await asyncio.sleep(0)

        os.kill(worker.pid, signal.SIGKILL)

        with pytest.raises(WorkerDied, match="SIGKILL"):
            await asking
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await text_of(streaming)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await worker.generate(ONCE, GREEDY)
        assert (await worker.died).code == "worker_died"

    with_worker(test, **ROOMY)


def test_stopping_ends_what_runs_as_cancelled_and_the_process_with_it() -> None:
    async def run() -> tuple[tuple[str, FinishReason | None], int]:
        async with running(**ROOMY) as worker:
            generation = await worker.generate(ONCE, ENDLESS)
            await anext(aiter(generation))
            pid = worker.pid
        return await text_of(generation), pid

    (_, finish), pid = asyncio.run(run())

    assert finish is FinishReason.CANCELLED
    assert not psutil.pid_exists(pid)


def test_a_file_that_is_no_model_fails_with_its_name_and_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(b"GGUF" + b"\1" * 100)
    before = set(psutil.Process().children())

    with pytest.raises(ModelLoadFailed, match=r"odd\.gguf"):
        asyncio.run(Worker.start("odd", path, EngineOptions(), plan_of(), queue_size=1))

    assert set(psutil.Process().children()) <= before


def test_the_machines_gpus_are_told_by_a_worker_that_ends() -> None:
    gpus = asyncio.run(find_gpus())

    assert all(gpu.name and 0 <= gpu.free_bytes <= gpu.total_bytes for gpu in gpus)
    assert not [child for child in psutil.Process().children() if "--devices" in child.cmdline()]
