"""`ModelBuilder`: from a request to make a model to a model, told step by step as Ollama tells it.

The store checks and records, `chat` compiles a template that came along, a child quantises. Nothing that exists changes
before the last step, so whoever leaves early leaves the models as they were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from myllm.chat.template import ChatTemplate
from myllm.errors import TemplateFailed
from myllm.store.create import Draft, NewModel, draft_model
from myllm.store.file_types import expected_bytes
from myllm.store.metadata import read_metadata
from myllm.store.registry import Record
from myllm.store.store import InstalledModel, Store
from myllm.worker.quantizer import quantize

WRITE_BYTES = 1 << 20  # an upload comes in small pieces, and each write is a thread's
QUANTIZING_DIGEST = "0" * 19  # what Ollama tells for a layer whose digest nobody knows yet


class BuildProgress(Struct, frozen=True, omit_defaults=True):
    """A step, in Ollama's words; while weights are written, bytes of the source."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None


class ModelBuilder:
    """One per server. forget: unloads a model by its exact name, because it is another one from now on."""

    def __init__(self, store: Store, forget: Callable[[str], Awaitable[None]]) -> None:
        self.store = store
        self.forget = forget
        self._turn = asyncio.Lock()  # one quantisation at a time: each takes all cores
        self._installing: set[asyncio.Task[None]] = set()

    async def create(self, new: NewModel) -> AsyncGenerator[BuildProgress, None]:
        """Make a model, or make it anew under the name that it has; the last step is `success`.

        What is wrong with the request is raised before the first step. Close it (`aclosing`) to call it off.
        """
        draft = await asyncio.to_thread(draft_model, self.store, new, check_template)
        if new.files:
            yield BuildProgress("parsing GGUF")
        if draft.file_type is None:
            for digest in draft.weights:
                yield BuildProgress(f"using existing layer {digest}")
            record = draft.record
        else:
            with self.store.blobs.temporary() as target:
                async with aclosing(self._quantized(draft, target)) as steps:
                    async for step in steps:
                        yield step
                yield BuildProgress("verifying conversion")
                record = await asyncio.to_thread(self._adopt, draft, target)
            yield BuildProgress(f"creating new layer {Path(record.path or '').name.replace('-', ':')}")
        for digest in draft.texts:
            yield BuildProgress(f"creating new layer {digest}")
        yield BuildProgress("writing manifest")
        await self._whole(self._replace(lambda: self.store.install(record)))
        yield BuildProgress("success")

    async def copy(self, source: str, target: str) -> None:
        """Another name for a model; a model that has the name already is replaced."""
        await self._whole(self._replace(lambda: self.store.copy_over(source, target)))

    async def upload(self, digest: str, chunks: AsyncIterable[bytes], size: int | None = None) -> None:
        """Keep what comes as the blob of this digest. Raises InvalidRequest where it has another, InsufficientStorage."""
        with await asyncio.to_thread(self.store.blobs.begin, digest, size) as writer:
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= WRITE_BYTES:
                    await asyncio.to_thread(writer.write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(writer.write, bytes(waiting))
            await asyncio.to_thread(writer.commit)

    async def _whole(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to the end, also where who asked leaves in the middle: a model and what is loaded of it must agree."""
        task = asyncio.create_task(work)
        self._installing.add(task)
        task.add_done_callback(self._installing.discard)
        await asyncio.shield(task)

    async def _replace(self, change: Callable[[], InstalledModel]) -> None:
        installed = await asyncio.to_thread(change)
        await self.forget(installed.name)

    async def _quantized(self, draft: Draft, target: Path) -> AsyncGenerator[BuildProgress, None]:
        """Write the weights into `target`."""
        meta, file_type = draft.metadata, draft.file_type or ""
        status, total = f"quantizing {meta.quantization} model to {file_type}", meta.tensor_bytes
        await asyncio.to_thread(self.store.blobs.check_room, expected_bytes(meta, file_type), f"quantizing to {file_type}")
        yield BuildProgress(status, QUANTIZING_DIGEST, total, 0)
        async with self._turn, aclosing(quantize(draft.path, target, file_type)) as steps:
            async for num_bytes in steps:
                yield BuildProgress(status, QUANTIZING_DIGEST, total, min(num_bytes, total))
        yield BuildProgress(status, QUANTIZING_DIGEST, total, total)

    def _adopt(self, draft: Draft, target: Path) -> Record:
        """The record, now of the file that was written; it is a model, or nothing happens."""
        read_metadata(target)
        path = self.store.blobs.adopt(target)
        return msgspec.structs.replace(draft.record, path=str(path), source="imported", owns_file=True, created_at=time.time(), origin=None)


def check_template(source: str) -> None:
    """Compile a template where it will run. Raises TemplateFailed."""
    try:
        ChatTemplate(source, name="template")
    except TemplateFailed as exc:
        raise TemplateFailed(exc.message, param="template") from exc
    if "messages" not in source:
        raise TemplateFailed("'template' never uses 'messages', so no prompt would hold what anybody says", param="template")
