"""How the native dialect answers: models, replies and events. Pure functions."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from myllm.loaded_model import LoadedModel
from myllm.reply import Reply
from myllm.server.native.answers import (
    AssistantMessage,
    ChatAnswer,
    EmbeddingsAnswer,
    EmbeddingsUsage,
    GenerateAnswer,
    LastEvent,
    ModelBody,
    ModelDetails,
    ModelLine,
    PullAnswer,
    UsageBody,
)  # fmt: skip
from myllm.server.streaming import encode_event
from myllm.service import Embeddings, Service
from myllm.sessions import iso_time
from myllm.store.pull_progress import Progress
from myllm.store.pull_task import PullTask
from myllm.store.store import InstalledModel
from myllm.types import Event, Finished, TextDelta, Usage

_encode = msgspec.json.Encoder().encode


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
        template=service.prompter.templates.name(installed),
        parameters=service.sampling_defaults(installed),
        loaded=status == "loaded",
        status=status,
        capabilities=installed.capabilities,
        digest=installed.digest,
        modified_at=iso_time(installed.modified_at.timestamp()),
        progress=loading.get(name, UNSET),
    )


def render_whole_model(installed: InstalledModel, service: Service) -> ModelBody:
    """A model asked for by name: `details` tells the rest of its file's header, and not where the file lies."""
    meta = installed.metadata
    body = render_model(installed, service)
    body.details = ModelDetails(
        source=installed.source,
        title=meta.name,
        license=meta.license,
        parameter_count=meta.parameter_count,
        size_bytes=meta.size_bytes,
        embedding_length=meta.embedding_length,
        block_count=meta.block_count,
        head_count=meta.head_count,
        head_count_kv=max(meta.head_count_kv, default=0),
        sliding_window=meta.sliding_window,
        tokenizer=meta.tokenizer_model,
        vocab_size=meta.vocab_size,
        tensor_types=meta.tensor_types,
    )
    return body


def render_usage(usage: Usage) -> UsageBody:
    return UsageBody(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens)


def render_embeddings(embeddings: Embeddings, *, is_list: bool) -> EmbeddingsAnswer:
    vectors = [vector.tolist() for vector in embeddings.vectors]
    answer = EmbeddingsAnswer(model=embeddings.model, usage=EmbeddingsUsage(embeddings.num_tokens, embeddings.num_tokens))
    if is_list:
        answer.embeddings = vectors
    else:
        answer.embedding = vectors[0]
    return answer


def render_events(reply: Reply, events: list[Event]) -> bytes:
    """One line a token; the last one has the whole text, so that a client may ignore the rest."""
    return b"".join(_render_event(reply, event) for event in events)


def render_pull(progress: Progress) -> PullAnswer:
    return PullAnswer(
        name=progress.name,
        status=progress.status,
        completed=progress.completed,
        total=progress.total,
        bytes_per_second=_or_unset(progress.bytes_per_second),
        seconds_left=_or_unset(progress.seconds_left),
    )


def render_pull_event(task: PullTask, progress: Progress) -> bytes:
    answer = render_pull(progress)
    answer.done = progress.status == "success"
    return encode_event(answer)


def render_chat(reply: Reply) -> ChatAnswer:
    assert reply.session_id is not None and reply.finish_reason is not None
    return ChatAnswer(
        message=AssistantMessage(reply.text),
        session_id=reply.session_id,
        usage=render_usage(reply.usage),
        finish_reason=reply.finish_reason,
        truncated_messages=reply.truncated_messages or UNSET,
    )


def render_generate(reply: Reply) -> GenerateAnswer:
    assert reply.finish_reason is not None
    return GenerateAnswer(text=reply.text, usage=render_usage(reply.usage), finish_reason=reply.finish_reason)


def render_status(model: LoadedModel) -> ModelLine:
    """A line of GET /api/status."""
    worker = model.worker
    stats = worker.stats if worker else None
    return ModelLine(
        name=model.name,
        status="loaded" if worker else "loading",
        progress=1.0 if worker else model.progress,
        requests=worker.num_requests if worker else model.num_leases,
        running=stats.running if stats else 0,
        waiting=stats.waiting if stats else 0,
        cells_used=stats.cells_used if stats else 0,
        cells_total=worker.info.num_cells if worker else 0,
        context_size=worker.info.context_length if worker else 0,
        parallel=worker.info.parallel if worker else 0,
        tokens_per_second=round(stats.tokens_per_second, 1) if stats and stats.running else 0.0,
        preemptions=stats.preemptions if stats else 0,
        memory_bytes=model.memory_bytes,
        estimated_bytes=model.footprint.ram,
        gpu_layers=model.plan.gpu_layers,
        gpu_bytes=model.reserved.gpu,
        expires_at=model.expires_at,
        pinned=model.is_pinned,
    )


def render_waiting(name: str, num_requests: int) -> ModelLine:
    """A line of GET /api/status for a model that waits for room in memory."""
    return ModelLine(name=name, status="waiting", requests=num_requests, waiting=num_requests)


def _render_event(reply: Reply, event: Event) -> bytes:
    if isinstance(event, TextDelta):
        return b'data: {"token":' + _encode(event.text) + b',"done":false}\n\n'
    assert isinstance(event, Finished)
    last = LastEvent(
        session_id=reply.session_id or UNSET,
        full_text=reply.text,
        usage=render_usage(reply.usage),
        finish_reason=event.reason,
        truncated_messages=reply.truncated_messages or UNSET,
    )
    return encode_event(last)


def _or_unset(value: int | None) -> int | UnsetType:
    return UNSET if value is None else value
