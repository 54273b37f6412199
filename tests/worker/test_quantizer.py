"""A real child that quantises: its progress, how it fails, and that nobody outlives who asked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from float_models import write_float_model
from live_server import pause, wait_until

from myllm.errors import ModelLoadFailed, WorkerDied
from myllm.store.metadata import read_metadata
from myllm.worker.quantizer import quantize


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_float_model(tmp_path_factory.mktemp("float") / "f16.gguf")


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "myllm.worker.quantizer_main" in child.cmdline()]


async def run(source: Path, target: Path) -> list[int]:
    async with aclosing(quantize(source, target, "Q8_0")) as steps:
        return [num_bytes async for num_bytes in steps]


async def one_child() -> psutil.Process:
    while not (found := children()):
        await asyncio.sleep(0.01)
    return found[0]


def test_a_child_writes_the_model_and_tells_how_far_it_is(source: Path, tmp_path: Path) -> None:
    seen = asyncio.run(run(source, tmp_path / "small.gguf"))

    assert read_metadata(tmp_path / "small.gguf").quantization == "Q8_0"
    assert seen == sorted(seen) and len(seen) > 5
    assert children() == []


def test_what_llama_cpp_refuses_fails_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")

    with pytest.raises(ModelLoadFailed, match=r"cannot quantise 'page.gguf'"):
        asyncio.run(run(tmp_path / "page.gguf", tmp_path / "small.gguf"))


def test_a_child_that_is_killed_is_an_error_with_its_signal(source: Path, tmp_path: Path) -> None:
    async def kill_it() -> None:
        running = asyncio.create_task(run(source, tmp_path / "small.gguf"))
        (await one_child()).kill()
        await running

    with pytest.raises(WorkerDied, match=r"quantised 'f16.gguf' was killed by SIGKILL"):
        asyncio.run(kill_it())


def test_who_leaves_ends_the_child(source: Path, tmp_path: Path) -> None:
    async def leave() -> psutil.Process:
        running = asyncio.create_task(run(source, tmp_path / "small.gguf"))
        child = await one_child()
        pause(child.pid)  # so that it cannot finish by itself
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return child

    child = asyncio.run(leave())

    assert not child.is_running()


def has_reader(fifo: Path) -> int | None:
    """Our end of a fifo that somebody reads from; None while nobody does."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_a_child_whose_server_is_gone_ends_from_the_middle_of_its_work(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "myllm.worker.quantizer_main", str(fifo), str(tmp_path / "small.gguf"), "Q8_0"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours = wait_until(lambda: has_reader(fifo), "llama.cpp reads the file, and waits for what we never write")

    assert child.stdin is not None
    child.stdin.close()

    wait_until(lambda: child.poll() is not None, "the child ended")
    os.close(ours)
