"""What the Ollama dialect answers, as types: answers are made of them, and so is the API's reference.

Durations are integer nanoseconds; what is absent is left out, as Ollama leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from myllm.server.tags import Tag, TagDetails

_encode = msgspec.json.Encoder().encode

DoneReason = Literal["stop", "length", "load", "unload", "cancelled", "error"]


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(content), status, headers, "application/json; charset=utf-8")


class TopLogprob(Struct):
    """A likely token; bytes that are no text on their own are written as `\\xe4`."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(Struct, kw_only=True):
    """A token of the answer: the text that it added, and its own bytes."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob] | UnsetType = UNSET


class MessageAnswer(Struct, kw_only=True):
    role: str
    content: str
    thinking: str | UnsetType = UNSET


class DebugInfo(Struct):
    """The prompt as the model would get it; nothing was generated."""

    rendered_template: str


class Answer(Struct, kw_only=True):
    """model: as it was asked for."""

    model: str
    created_at: str
    done: bool
    logprobs: list[Logprob] | UnsetType = UNSET


class Ending(Answer, kw_only=True):
    """What the last line of a stream tells, and an answer without streaming.

    load_duration: until the model was there. prompt_eval_duration: from then to the first text, waiting among others' requests
    included. eval_duration: from the first text to the last. truncated: the prompt was longer than the context; truncated_messages
    and truncated_tokens: what of it was left out. error: what broke the answer.
    """

    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    truncated_messages: int | UnsetType = UNSET
    truncated_tokens: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    debug_info: DebugInfo | UnsetType = msgspec.field(default=UNSET, name="_debug_info")


class GenerateChunk(Answer, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET


class GenerateAnswer(Ending, kw_only=True):
    """context: the tokens of prompt and answer, to be sent along with the next prompt."""

    response: str
    thinking: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET


class ChatChunk(Answer, kw_only=True):
    message: MessageAnswer


class ChatAnswer(Ending, kw_only=True):
    message: MessageAnswer


class EmbedAnswer(Struct, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET


class EmbeddingAnswer(Struct):
    embedding: list[float]


class TagList(Struct):
    models: list[Tag]


class RunningModel(Struct):
    """size: bytes of main and GPU memory together. expires_at: far in the future where it stays."""

    name: str
    model: str
    size: int
    digest: str
    details: TagDetails
    expires_at: str
    size_vram: int
    context_length: int


class RunningList(Struct):
    models: list[RunningModel]


class TensorAnswer(Struct):
    name: str
    type: str
    shape: tuple[int, ...]


class ShownMessage(Struct):
    role: str
    content: str


class ShowAnswer(Struct, kw_only=True):
    """model_info: the file's header without its template and, unless verbose, without its longer lists."""

    license: str | UnsetType = UNSET
    modelfile: str
    parameters: str | UnsetType = UNSET
    template: str | UnsetType = UNSET
    system: str | UnsetType = UNSET
    details: TagDetails
    messages: list[ShownMessage] | UnsetType = UNSET
    model_info: dict[str, Any]
    tensors: list[TensorAnswer] | UnsetType = UNSET
    capabilities: list[str]
    modified_at: str


class ProgressAnswer(Struct, kw_only=True):
    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class VersionAnswer(Struct):
    version: str


class CloudState(Struct):
    disabled: Literal[True]
    source: Literal["config"]


class CloudStatus(Struct):
    """There is no cloud behind this server."""

    cloud: CloudState
