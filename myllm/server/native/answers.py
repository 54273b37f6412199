"""What the native dialect answers, as types: `render` fills them in, and the reference is made of them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from myllm.manager import Status
from myllm.sessions import SessionInfo
from myllm.store.metadata import TensorShare
from myllm.store.pull_progress import Status as PullStatus
from myllm.store.store import Source
from myllm.types import FinishReason, Role, ToolCall, Usage


class UsageBody(Struct):
    """Tokens as the engine counted them; `prompt_tokens` includes `cached_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class ModelDetails(Struct, kw_only=True):
    """The rest of the file's header."""

    source: Source
    title: str | None
    license: str | None
    parameter_count: int
    size_bytes: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    sliding_window: int | None
    tokenizer: str | None
    vocab_size: int
    tensor_types: dict[str, TensorShare]


class ModelBody(Struct, kw_only=True):
    """A model as listed. `progress` (0 to 1) only while it loads; `details` only where one is asked for by name."""

    name: str
    family: str
    size_mb: int
    quantization: str
    context_size: int
    template: str | None
    parameters: dict[str, Any]
    loaded: bool
    status: Status
    capabilities: tuple[str, ...]
    digest: str
    modified_at: str
    progress: float | UnsetType = UNSET
    details: ModelDetails | UnsetType = UNSET


class ModelList(Struct):
    models: list[ModelBody]


class Done(Struct):
    """What was asked for has been done."""

    message: str
    status: Literal["success"] = "success"


class PullAnswer(Struct, kw_only=True):
    """`completed` of `total` bytes are here; a speed only while bytes come. `done` is told in a stream."""

    name: str
    status: PullStatus
    completed: int
    total: int
    bytes_per_second: int | UnsetType = UNSET
    seconds_left: int | UnsetType = UNSET
    done: bool | UnsetType = UNSET


class AssistantMessage(Struct):
    content: str
    role: Literal["assistant"] = "assistant"


class ChatAnswer(Struct, kw_only=True):
    """`truncated_messages`: how many of the session's oldest messages found no room in the prompt; absent where all did."""

    message: AssistantMessage
    session_id: str
    usage: UsageBody
    finish_reason: FinishReason
    truncated_messages: int | UnsetType = UNSET


class GenerateAnswer(Struct, kw_only=True):
    text: str
    usage: UsageBody
    finish_reason: FinishReason


class TokenEvent(Struct):
    token: str
    done: Literal[False]


class LastEvent(Struct, kw_only=True):
    """The end of a stream; `session_id` where it was a chat."""

    done: Literal[True] = True
    session_id: str | UnsetType = UNSET
    full_text: str
    usage: UsageBody
    finish_reason: FinishReason
    truncated_messages: int | UnsetType = UNSET


class EmbeddingsUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct, kw_only=True):
    """One vector for an input that is a string, one each for a list. Of length 1."""

    embedding: list[float] | UnsetType = UNSET
    embeddings: list[list[float]] | UnsetType = UNSET
    model: str
    usage: EmbeddingsUsage


class TokensAnswer(Struct):
    tokens: list[int]


class TextAnswer(Struct):
    content: str


class SessionList(Struct):
    sessions: list[SessionInfo]


class SessionMessage(Struct, kw_only=True):
    """A stored message; the last three of what a model wrote."""

    role: Role
    content: str
    reasoning: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    created_at: str
    finish_reason: FinishReason | UnsetType = UNSET
    model: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET


class SessionAnswer(SessionInfo, frozen=True):
    """A conversation with its messages, oldest first."""

    messages: list[SessionMessage]


class MemoryLine(Struct):
    """Bytes of the machine; `budget` is the setting, null where there is none."""

    total: int
    available: int
    budget: int | None


class ModelLine(Struct, kw_only=True):
    """A model that is loaded, loads, or waits for room in memory; of one that waits, only the first four are told."""

    name: str
    status: Literal["loaded", "loading", "waiting"]
    requests: int
    waiting: int
    progress: float | UnsetType = UNSET
    running: int | UnsetType = UNSET
    cells_used: int | UnsetType = UNSET
    cells_total: int | UnsetType = UNSET
    context_size: int | UnsetType = UNSET
    parallel: int | UnsetType = UNSET
    tokens_per_second: float | UnsetType = UNSET
    preemptions: int | UnsetType = UNSET
    memory_bytes: int | UnsetType = UNSET
    estimated_bytes: int | UnsetType = UNSET
    gpu_layers: int | UnsetType = UNSET
    gpu_bytes: int | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    pinned: bool | UnsetType = UNSET


class StatusAnswer(Struct):
    version: str
    uptime_s: float
    memory: MemoryLine
    models: list[ModelLine]
