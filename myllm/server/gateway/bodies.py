"""What the gateway takes and answers, as types: bodies are validated with them, and the reference is made of them."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from myllm.server.ranges import Count, Temperature
from myllm.server.tags import Tag
from myllm.types import ChatRequest, Message

MAX_TOKENS = 512
TEMPERATURE = 0.7


class ChatBody(Struct):
    """One message; there is no history. `reasoning` does nothing on a model that cannot think, and low turns thinking off."""

    message: str
    model: str | None = None
    max_tokens: Count | None = MAX_TOKENS
    temperature: Temperature | None = TEMPERATURE
    reasoning: Literal["low", "medium", "high"] | None = "medium"
    stream: bool | None = False


class UsageBody(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(Struct):
    """`reasoning` is what the model thought before the response; it is absent where it did not."""

    response: str
    model: str
    usage: UsageBody
    reasoning: str | UnsetType = UNSET


class TokenEvent(Struct):
    """A piece of the response, or of what the model thinks: then `token` is empty."""

    token: str
    done: Literal[False]
    reasoning: str | UnsetType = UNSET


class LastEvent(Struct):
    """The end of a stream, with all that it told."""

    done: Literal[True]
    response: str
    model: str
    usage: UsageBody
    reasoning: str | UnsetType = UNSET


class ModelList(Struct):
    models: list[Tag]


def parse_chat(body: ChatBody, model: str, *, can_think: bool) -> ChatRequest:
    """`low` tells the template both: no thinking, and where it cannot be turned off as little of it as there is."""
    effort = body.reasoning or "medium"
    temperature = TEMPERATURE if body.temperature is None else body.temperature
    return ChatRequest(
        model=model,
        messages=(Message("user", body.message),),
        sampling={"max_tokens": body.max_tokens or MAX_TOKENS, "temperature": temperature},
        think=(effort if effort != "low" else False) if can_think else None,
        template_kwargs={"reasoning_effort": effort} if can_think else {},
    )
