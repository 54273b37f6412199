"""What the server answers, as typed values. Fields that a newer server adds are ignored, words that it adds are taken.

Sizes are in bytes unless the name says otherwise, times carry their zone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

from myllm.types import Usage


class Model(Struct, frozen=True, kw_only=True):
    """An installed model.

    family: the file's architecture ("llama"). context_size: tokens, as the file says. template: "gguf" for the one in the
    file, another's name, None where there is none. parameters: its sampling defaults. status: "unloaded", "loading" (then
    `progress` is 0 to 1), "loaded" or "failed". capabilities: of "completion", "chat", "tools", "thinking", "insert", "vision",
    "embeddings" and "rerank". details: only where the model was asked for by name.
    """

    name: str
    family: str = ""
    size_mb: int = 0
    quantization: str = ""
    context_size: int = 0
    template: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    loaded: bool = False
    status: str = "unloaded"
    progress: float | None = None
    capabilities: tuple[str, ...] = ()
    digest: str = ""
    modified_at: datetime | None = None
    details: ModelDetails | None = None


class ModelDetails(Struct, frozen=True, kw_only=True):
    """The rest of a model file's header; what the file does not say is None.

    source: "bundled", "file", "imported", "alias", "pulled", or the program whose model it is. tensor_types: `count` and
    `num_bytes` of the tensors of each type.
    """

    source: str = ""
    title: str | None = None
    license: str | None = None
    parameter_count: int | None = None
    size_bytes: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    head_count: int | None = None
    head_count_kv: int | None = None
    sliding_window: int | None = None
    tokenizer: str | None = None
    vocab_size: int | None = None
    tensor_types: dict[str, dict[str, int]] = field(default_factory=dict)


class Done(Struct, frozen=True, kw_only=True):
    """Something was done, and nothing is to be told but a sentence for people."""

    message: str
    status: str = "success"


class PullProgress(Struct, frozen=True, kw_only=True):
    """How far a pull is: `completed` of `total` bytes are here, those of an earlier pull too.

    status: "downloading", "verifying" or "success". The speed and the time that is left are known only while bytes come.
    """

    name: str = ""
    status: str = ""
    completed: int = 0
    total: int = 0
    bytes_per_second: int | None = None
    seconds_left: int | None = None


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody said. It may be sent again, in a list of messages.

    role: "system", "developer", "user", "assistant" or "tool". reasoning: what the model thought before, where it did.
    """

    role: str
    content: str
    reasoning: str | None = None


class Answer(Struct, frozen=True, kw_only=True):
    """What a model said in a chat. As a string it is its text.

    session_id: the conversation that it was stored in; send it with the next message. finish_reason: "stop", "length" (it
    reached max_tokens or the end of the context) or "cancelled" (the model was unloaded meanwhile). truncated_messages: how
    many of the oldest messages no longer fitted in the prompt.
    """

    message: Message
    session_id: str
    usage: Usage
    finish_reason: str
    truncated_messages: int = 0

    @property
    def text(self) -> str:
        return self.message.content

    @property
    def reasoning(self) -> str | None:
        """What the model thought before it answered; None where it did not."""
        return self.message.reasoning

    def __str__(self) -> str:
        return self.text


class Completion(Struct, frozen=True, kw_only=True):
    """The continuation of a text, without the text. As a string it is its text. finish_reason: as an Answer's."""

    text: str
    usage: Usage
    finish_reason: str

    def __str__(self) -> str:
        return self.text


class Embeddings(Struct, frozen=True, kw_only=True):
    """A vector of length 1 for each input, in order."""

    embeddings: list[list[float]]
    model: str
    usage: Usage = field(default_factory=Usage)


class Ranked(Struct, frozen=True, kw_only=True):
    """A document's place in a Ranking. index: which of the documents that were sent. relevance_score: the higher the better."""

    index: int
    relevance_score: float


class Ranking(Struct, frozen=True, kw_only=True):
    """Documents by how well they answer a query, the best first."""

    results: list[Ranked]
    model: str = ""
    usage: Usage = field(default_factory=Usage)


class SessionInfo(Struct, frozen=True, kw_only=True):
    """A stored conversation without its messages.

    title: the beginning of what the user said first, until it is set. model: the one that answered last.
    """

    id: str
    title: str | None
    model: str
    num_messages: int
    created_at: datetime
    updated_at: datetime


class StoredMessage(Message, frozen=True, kw_only=True):
    """A message of a stored conversation; of an answer it is also known which model gave it, and how it ended.

    created_at: when it was first stored; a beginning that conversations share is stored once. finish_reason: as an Answer's;
    "cancelled" also where the client left.
    """

    created_at: datetime
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


class StoredSession(SessionInfo, frozen=True, kw_only=True):
    """A stored conversation, oldest message first."""

    messages: list[StoredMessage]


class Memory(Struct, frozen=True, kw_only=True):
    """Of the server's machine; budget: what its setting `memory_budget` leaves for models, None for all."""

    total: int
    available: int
    budget: int | None = None


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model that is loaded, loading, or waits for room in memory (then most numbers are 0).

    requests: all that it has; of these `running` are in the batch and `waiting` are not yet. A cell holds one token in the KV
    cache. context_size: tokens that one request may have. tokens_per_second: generated, over the last two seconds.
    estimated_bytes: what its worker may come to take, as reckoned before the load. expires_at: when it will be unloaded if
    nobody asks, in epoch seconds; None while it is in use, pinned or kept for ever.
    """

    name: str
    status: str
    progress: float = 0.0
    requests: int = 0
    running: int = 0
    waiting: int = 0
    cells_used: int = 0
    cells_total: int = 0
    context_size: int = 0
    parallel: int = 0
    tokens_per_second: float = 0.0
    preemptions: int = 0
    memory_bytes: int = 0
    estimated_bytes: int = 0
    gpu_layers: int = 0
    gpu_bytes: int = 0
    expires_at: float | None = None
    pinned: bool = False


class Status(Struct, frozen=True, kw_only=True):
    """What is loaded, and how busy it is."""

    version: str
    uptime_s: float
    memory: Memory
    models: list[LoadedModel]


class Health(Struct, frozen=True, kw_only=True):
    """Whether the server is ready. status: "starting", "healthy" or "draining"."""

    status: str
