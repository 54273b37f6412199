"""What the Anthropic dialect takes: the types that its bodies are validated with, and how they become a `ChatRequest`.

Fields that Anthropic knows and this server cannot honour are here too, so that they are refused by name. `cache_control`
is honoured without doing anything: what the engine has computed stays in its cache anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from myllm.errors import InvalidRequest
from myllm.server.ranges import Count, Share, StopStrings, TopK
from myllm.types import ChatRequest, Message

UNSUPPORTED = (
    "tools",
    "tool_choice",
    "mcp_servers",
    "output_config",
    "output_format",
    "container",
    "context_management",
    "diagnostics",
    "inference_geo",
)


class CacheControl(Struct):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class Block(Struct):
    """A piece of a message; only those of type `text` are taken."""

    type: str
    text: str | None = None
    cache_control: CacheControl | None = None


class Turn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(Struct):
    """Only `disabled` is taken."""

    type: Literal["disabled", "enabled", "adaptive", "between_tools"]


class Metadata(Struct):
    """`user_id` is in the log, with the request's id."""

    user_id: str | None = None


class CountBody(Struct, kw_only=True):
    """A prompt whose tokens are to be counted."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1)]
    system: str | list[Block] | None = None
    thinking: Thinking | None = None
    cache_control: CacheControl | None = None
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    speed: Literal["standard", "fast"] | None = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: Count
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    stop_sequences: StopStrings | None = None
    stream: bool = False
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: str | dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    inference_geo: str | None = None


def parse_messages(body: MessagesBody, max_messages: int) -> ChatRequest:
    given = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "max_tokens": body.max_tokens,
        "stop": None if body.stop_sequences is None else tuple(body.stop_sequences),
    }
    return _chat(body, max_messages, {name: value for name, value in given.items() if value is not None})


def parse_count(body: CountBody, max_messages: int) -> ChatRequest:
    return _chat(body, max_messages, {})


def _chat(body: CountBody, max_messages: int, sampling: dict[str, Any]) -> ChatRequest:
    _refuse_unsupported(body)
    if len(body.messages) > max_messages:
        raise InvalidRequest(f"'messages' has {len(body.messages):,} entries, at most {max_messages:,} are taken", param="messages")
    system = [] if body.system is None else [Message("system", _text(body.system, "system"))]
    turns = _combined(body.messages)
    return ChatRequest(body.model, (*system, *turns), sampling, continues_last=turns[-1].role == "assistant")


def _refuse_unsupported(body: CountBody) -> None:
    for name in UNSUPPORTED:
        if getattr(body, name, None):  # an empty list of tools asks for nothing
            raise InvalidRequest(f"'{name}' is not supported yet; leave it out", param=name)
    if body.thinking is not None and body.thinking.type != "disabled":
        raise InvalidRequest(
            f"'thinking' of type '{body.thinking.type}' is not supported yet; leave it out or disable it", param="thinking"
        )
    if body.speed == "fast":
        raise InvalidRequest("'speed' takes only 'standard': this server has no other", param="speed")


def _combined(turns: Sequence[Turn]) -> list[Message]:
    """The turns as messages, those of one role in a row as one, as Anthropic takes them."""
    combined: list[tuple[Literal["user", "assistant", "system"], list[str]]] = []
    for index, turn in enumerate(turns):
        text = _text(turn.content, f"messages[{index}].content")
        if combined and combined[-1][0] == turn.role:
            combined[-1][1].append(text)
        else:
            combined.append((turn.role, [text]))
    return [Message(role, "\n".join(texts)) for role, texts in combined]


def _text(content: str | list[Block], where: str) -> str:
    """The text of a content, its blocks on lines of their own. Raises InvalidRequest for what is no text."""
    if isinstance(content, str):
        return content
    return "\n".join(_block_text(block, f"{where}[{index}]") for index, block in enumerate(content))


def _block_text(block: Block, where: str) -> str:
    if block.type != "text":
        raise InvalidRequest(f"'{where}' is of type '{block.type[:40]}', and only 'text' is supported yet", param=where)
    if block.text is None:
        raise InvalidRequest(f"'{where}.text' is required", param=f"{where}.text")
    return block.text
