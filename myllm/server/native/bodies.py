"""What the native dialect takes: the types that its bodies are validated with, and how they become requests.

A field's range stands in its type, so that the error that names it and the API's reference are made from one place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from myllm.config import KVCacheType
from myllm.errors import InvalidRequest
from myllm.server.ranges import (
    Bias,
    Count,
    Penalty,
    RepeatPenalty,
    Seed,
    Share,
    StopString,
    StopStrings,
    Temperature,
    TokenID,
    TopK,
    keep_alive_s,
)  # fmt: skip
from myllm.sessions.session_store import MAX_LIST
from myllm.types import ChatRequest, CompletionRequest, Message, Role

Tokens = Annotated[list[TokenID], Meta(max_length=10_000_000)]


class Options(Struct):
    """InferenceOptions of the API; what is not given has the model's default."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    max_tokens: Count | None = None
    stop: StopString | StopStrings | None = None
    repeat_penalty: RepeatPenalty | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    penalty_last_n: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    logit_bias: dict[TokenID, Bias] | None = None
    seed: Seed | None = None
    ignore_eos: bool | None = None

    def to_sampling(self) -> dict[str, Any]:
        """What was given, by the names and in the types of SamplingParams."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        if "stop" in given:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if "top_k" in given:
            given["top_k"] = max(given["top_k"], 0)
        return given


class MessageBody(Struct):
    role: Role
    content: str


class ChatBody(Struct):
    model: str
    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    session_id: str | None = None
    stream: bool | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: str | float | None = None


class GenerateBody(Struct):
    model: str
    prompt: str
    stream: bool | None = None
    options: Options | None = None
    keep_alive: str | float | None = None


class EmbeddingsBody(Struct):
    model: str
    input: str | Annotated[list[str], Meta(min_length=1)]


class LoadBody(Struct):
    context_size: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    gpu_layers: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    parallel: Annotated[int, Meta(ge=0, le=256)] | None = None
    kv_cache_type: KVCacheType | None = None
    keep_alive: str | float | None = None
    pin: bool | None = None


class PullBody(Struct):
    name: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None


class TokenizeBody(Struct):
    model: str
    content: str
    add_special: bool = False
    parse_special: bool = True


class DetokenizeBody(Struct):
    model: str
    tokens: Tokens


class SessionsQuery(Struct):
    """Which part of the list, newest first."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = 100
    offset: Annotated[int, Meta(ge=0, le=2**53)] = 0


class TitleBody(Struct):
    title: str


class ForkBody(Struct):
    at: int | None = None


def parse_chat(body: ChatBody, max_messages: int) -> ChatRequest:
    if len(body.messages) > max_messages:
        raise InvalidRequest(f"'messages' has {len(body.messages):,} entries, at most {max_messages:,} are taken", param="messages")
    if body.think:
        raise InvalidRequest("'think' is not supported yet; leave it out or send false", param="think")
    return ChatRequest(
        model=body.model,
        messages=tuple(Message(message.role, message.content) for message in body.messages),
        sampling=_sampling(body.options),
        session_id=body.session_id,
        uses_session=True,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )


def _sampling(options: Options | None) -> dict[str, Any]:
    return options.to_sampling() if options else {}


def parse_generate(body: GenerateBody) -> CompletionRequest:
    return CompletionRequest(body.model, body.prompt, _sampling(body.options), keep_alive_s(body.keep_alive))
