"""What this dialect answers, as types: the whole answers are made of them, and the reference tells them."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

FinishWord = Literal["stop", "length"]


class ModelAnswer(Struct, kw_only=True):
    """A model as listed."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class WholeModelAnswer(ModelAnswer, kw_only=True):
    """A model asked for by name."""

    permission: list[str]
    root: str
    parent: str | None


class ModelList(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class PromptTokensDetails(Struct):
    cached_tokens: int


class UsageAnswer(Struct):
    """`prompt_tokens` counts each prompt once, `completion_tokens` all answers that were generated for it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(Struct):
    """A token and the likeliest at its place; the `token`s of an answer, one after the other, are its text."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[ChatTokenLogprob]
    refusal: list[ChatTokenLogprob] | None = None


class CompletionLogprobs(Struct):
    """Four lists of one length; `text_offset` counts characters from the beginning of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class AnswerMessage(Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(Struct):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishWord


class ChatAnswer(Struct, kw_only=True):
    """`session_id` and `truncated_messages` (how many the prompt left out) only where a session was asked for."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    system_fingerprint: str
    session_id: str | UnsetType = UNSET
    truncated_messages: int | UnsetType = UNSET


class ChatDelta(Struct, kw_only=True):
    """The first one has the role, the last one nothing."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishWord | None


class ChatChunk(Struct, kw_only=True):
    """`usage` is there only with `stream_options.include_usage`: null, but in the last chunk, which has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    session_id: str | UnsetType = UNSET
    truncated_messages: int | UnsetType = UNSET
    choices: list[ChatChunkChoice]
    usage: UsageAnswer | UnsetType | None = UNSET


class CompletionChoice(Struct):
    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: FinishWord


class CompletionAnswer(Struct, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageAnswer
    system_fingerprint: str


class CompletionChunkChoice(Struct):
    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: FinishWord | None


class CompletionChunk(Struct, kw_only=True):
    """`usage` as in a chat's chunks."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: UsageAnswer | UnsetType | None = UNSET


class Embedding(Struct, kw_only=True):
    """`embedding` is numbers, or with `encoding_format: base64` the little-endian 32-bit floats in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
