"""The server's end of a quantisation: a child that does it, its progress, and its last words where it fails."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path

from myllm.errors import ModelLoadFailed, WorkerDied
from myllm.worker.handle import HINTS, LAST_WORDS

log = logging.getLogger("myllm.worker")


async def quantize(source: Path, target: Path, file_type: str) -> AsyncGenerator[int, None]:
    """Write the model at `source`, all its parts, into `target` with weights of `file_type`, llama.cpp's name for them.

    Yields how many bytes of the source are done; closing it ends the child. `target` is whole where it runs out by itself,
    and the caller's to remove where it does not. Raises ModelLoadFailed with llama.cpp's reason, WorkerDied with the signal.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "myllm.worker.quantizer_main", str(source), str(target), file_type,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    listening = asyncio.create_task(_listen(process.stderr))
    try:
        async for line in process.stdout:
            if line.strip().isdigit():
                yield int(line)
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    words = await listening
    if process.returncode:
        raise _failure(source.name, process.returncode, words)


def _failure(name: str, code: int, words: list[str]) -> ModelLoadFailed | WorkerDied:
    last = words[-1] if words else "it said nothing"
    if code > 0:
        return ModelLoadFailed(last)
    how = f"was killed by {signal.Signals(-code).name}{HINTS.get(-code, '')}"
    return WorkerDied(f"the process that quantised '{name}' {how}; its last words: {last}")


async def _listen(stderr: asyncio.StreamReader) -> list[str]:
    """The last lines that the child says, once it has said all; each goes to the log at once."""
    words: deque[str] = deque(maxlen=LAST_WORDS)
    async for line in stderr:
        words.append(line.decode(errors="replace").rstrip())
        log.info("quantizer: %s", words[-1])
    return list(words)
