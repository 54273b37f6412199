"""What the native dialect answers: models, replies, events and errors as JSON. Pure functions."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from myllm.errors import MyLLMError
from myllm.loaded_model import LoadedModel
from myllm.reply import Reply
from myllm.service import Service
from myllm.sessions import iso_time
from myllm.store.pull_progress import Progress
from myllm.store.pull_task import PullTask
from myllm.store.store import InstalledModel
from myllm.types import Event, Finished, TextDelta, Usage

_encode = msgspec.json.Encoder().encode


class ModelBody(Struct, omit_defaults=True):
    """A model as listed."""

    name: str
    family: str
    size_mb: int
    quantization: str
    context_size: int
    template: str | None
    parameters: dict[str, Any]
    loaded: bool
    status: str
    capabilities: tuple[str, ...]
    digest: str
    modified_at: str
    progress: float | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


def render_model(installed: InstalledModel, service: Service) -> ModelBody:
    """001's fields and ours; `progress` (0 to 1) only while the model loads."""
    meta, name = installed.metadata, installed.name
    status = service.manager.status(name)
    loading = {model.name: model.progress for model in service.manager.loaded()} if status == "loading" else {}
    return ModelBody(
        name=name,
        family=meta.architecture,
        size_mb=round(meta.size_bytes / 1e6),
        quantization=meta.quantization,
        context_size=meta.context_length,
        template=service.template_name(installed),
        parameters=service.sampling_defaults(installed),
        loaded=status == "loaded",
        status=status,
        capabilities=meta.capabilities,
        digest=installed.digest,
        modified_at=iso_time(installed.modified_at.timestamp()),
        progress=loading.get(name, UNSET),
    )


def render_whole_model(installed: InstalledModel, service: Service) -> ModelBody:
    """A model asked for by name: `details` tells the rest of its file's header, and not where the file lies."""
    meta = installed.metadata
    details = {
        "source": installed.source,
        "title": meta.name,
        "license": meta.license,
        "parameter_count": meta.parameter_count,
        "size_bytes": meta.size_bytes,
        "embedding_length": meta.embedding_length,
        "block_count": meta.block_count,
        "head_count": meta.head_count,
        "head_count_kv": max(meta.head_count_kv, default=0),
        "sliding_window": meta.sliding_window,
        "tokenizer": meta.tokenizer_model,
        "vocab_size": meta.vocab_size,
        "tensor_types": meta.tensor_types,
    }
    body = render_model(installed, service)
    body.details = details
    return body


def render_usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def render_events(reply: Reply, events: list[Event]) -> bytes:
    """One line a token; the last one has the whole text, so that a client may ignore the rest."""
    return b"".join(_render_event(reply, event) for event in events)


def render_stream_error(error: MyLLMError) -> bytes:
    return _sse({"error": error.message, "done": True})


def render_pull(progress: Progress) -> dict[str, Any]:
    """How far a pull is; a speed only while bytes come."""
    told = {"name": progress.name, "status": progress.status, "completed": progress.completed, "total": progress.total}
    speed = {"bytes_per_second": progress.bytes_per_second, "seconds_left": progress.seconds_left}
    return told | {key: value for key, value in speed.items() if value is not None}


def render_pull_event(task: PullTask, progress: Progress) -> bytes:
    return _sse(render_pull(progress) | {"done": progress.status == "success"})


def render_error(error: MyLLMError) -> Response:
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return json({"detail": error.message}, status=error.status, headers=headers)


def render_chat(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return {"message": message, "session_id": reply.session_id, **_ending(reply)}


def render_generate(reply: Reply) -> dict[str, Any]:
    return {"text": reply.text, **_ending(reply)}


def render_status(model: LoadedModel) -> dict[str, Any]:
    """A line of GET /api/status."""
    worker = model.worker
    stats = worker.stats if worker else None
    return {
        "name": model.name,
        "status": "loaded" if worker else "loading",
        "progress": 1.0 if worker else model.progress,
        "requests": worker.num_requests if worker else model.num_leases,
        "running": stats.running if stats else 0,
        "waiting": stats.waiting if stats else 0,
        "cells_used": stats.cells_used if stats else 0,
        "cells_total": worker.info.num_cells if worker else 0,
        "context_size": worker.info.context_length if worker else 0,
        "parallel": worker.info.parallel if worker else 0,
        "tokens_per_second": round(stats.tokens_per_second, 1) if stats and stats.running else 0.0,
        "preemptions": stats.preemptions if stats else 0,
        "memory_bytes": model.memory_bytes,
        "estimated_bytes": model.footprint.ram,
        "gpu_layers": model.plan.gpu_layers,
        "gpu_bytes": model.reserved.gpu,
        "expires_at": model.expires_at,
        "pinned": model.is_pinned,
    }


def render_waiting(name: str, num_requests: int) -> dict[str, Any]:
    """A line of GET /api/status for a model that waits for room in memory."""
    return {"name": name, "status": "waiting", "requests": num_requests, "waiting": num_requests}


def json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _render_event(reply: Reply, event: Event) -> bytes:
    if isinstance(event, TextDelta):
        return b'data: {"token":' + _encode(event.text) + b',"done":false}\n\n'
    assert isinstance(event, Finished)
    session = {"session_id": reply.session_id} if reply.session_id else {}
    return _sse({"done": True, **session, "full_text": reply.text, **_ending(reply)})


def _ending(reply: Reply) -> dict[str, Any]:
    """What every answer ends with."""
    truncated = {"truncated_messages": reply.truncated_messages} if reply.truncated_messages else {}
    return {"usage": render_usage(reply.usage), "finish_reason": reply.finish_reason, **truncated}


def _sse(content: Any) -> bytes:
    return b"data: " + _encode(content) + b"\n\n"
