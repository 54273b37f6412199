"""What the Ollama dialect takes, as types. `null` is as good as absent everywhere, for that is how Go reads it.

What depends on the model (its capabilities, its name) is checked in `requests`.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from msgspec import Struct

from myllm.errors import InvalidRequest
from myllm.types import Message, Role, ToolCall

MAX_TOP_LOGPROBS = 20


class FunctionBody(Struct):
    """arguments: an object; its JSON as text is taken, too."""

    name: str
    arguments: dict[str, Any] | str | None = None


class ToolCallBody(Struct):
    function: FunctionBody
    id: str | None = None


class MessageBody(Struct):
    """A turn. tool_name says which tool's result it is."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class RunBody(Struct, kw_only=True):
    """What `generate` and `chat` have in common.

    stream: true unless false is sent. truncate: a prompt longer than the context is cut and the answer says so, unless this is
    false: then it is refused. shift: an answer that fills the context goes on with half of what was forgotten.
    """

    model: str | None = None
    stream: bool | None = None
    format: Any = None
    keep_alive: str | float | None = None
    options: dict[str, Any] | None = None
    think: Any = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")

    @property
    def num_logprobs(self) -> int | None:
        """As SamplingParams has it."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """What is told before the model is looked for, as Ollama does. Raises InvalidRequest."""
        top = self.top_logprobs or 0
        if not 0 <= top <= MAX_TOP_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", param="top_logprobs")
        if top and not self.logprobs:
            raise InvalidRequest("'top_logprobs' takes 'logprobs': true beside it", param="top_logprobs")


class GenerateBody(RunBody, kw_only=True):
    """An empty prompt loads the model, and unloads it where keep_alive is 0.

    context: what an earlier answer ended with. raw: the prompt goes to the model as it is. suffix: what comes after the gap that
    is to be filled. template: Jinja, for this request.
    """

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatBody(RunBody, kw_only=True):
    """No messages load the model, and unload it where keep_alive is 0."""

    messages: list[MessageBody] | None = None
    tools: list[Any] | None = None


class EmbedBody(Struct):
    """input: a text or several; none loads the model. truncate: an input that is too long loses its end, unless this is false."""

    model: str | None = None
    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None

    @property
    def inputs(self) -> list[str]:
        if self.input is None or self.input == "":
            return []
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("invalid input type", param="input")
        return texts

    @property
    def num_dimensions(self) -> int | None:
        """None is all."""
        if self.dimensions is not None and self.dimensions < 0:
            raise InvalidRequest("'dimensions' takes 1 to what the model has, and 0 for all of them", param="dimensions")
        return self.dimensions or None


class EmbeddingsBody(Struct):
    model: str | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class NamedBody(Struct, kw_only=True):
    """`name` is what `model` was called once."""

    model: str | None = None
    name: str | None = None

    @property
    def asked(self) -> str:
        return self.model or self.name or ""


class ShowBody(NamedBody, kw_only=True):
    """system and options are what the modelfile shall show instead of the model's own. verbose: long lists and tensors, too."""

    verbose: bool | None = None
    system: str | None = None
    options: dict[str, Any] | None = None


class TransferBody(NamedBody, kw_only=True):
    """A pull or a push."""

    stream: bool | None = None
    insecure: bool | None = None
    username: str | None = None
    password: str | None = None


class CopyBody(Struct):
    source: str | None = None
    destination: str | None = None


class CreateBody(NamedBody, kw_only=True):
    """A model from an installed one, or from files that were uploaded as blobs, and what is to be laid over it."""

    from_model: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[MessageBody] | None = None
    quantize: str | None = None
    stream: bool | None = None
    modelfile: str | None = None
    path: str | None = None
    draft_files: dict[str, str] | None = None
    draft_quantize: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    remote_host: str | None = None
    info: dict[str, Any] | None = None


def parse_messages(bodies: list[MessageBody], max_messages: int) -> tuple[Message, ...]:
    """Raises InvalidRequest that names the message."""
    if len(bodies) > max_messages:
        raise InvalidRequest(f"'messages' has {len(bodies):,} entries, at most {max_messages:,} are taken", param="messages")
    return tuple(_parse_message(body, at) for at, body in enumerate(bodies))


def _parse_message(body: MessageBody, place: int) -> Message:
    try:
        role = msgspec.convert(body.role.lower(), Role)
    except msgspec.ValidationError:
        message = f"'messages[{place}].role' is {body.role[:40]!r}; it takes {', '.join(get_args(Role))}"
        raise InvalidRequest(message, param=f"messages[{place}].role") from None
    return Message(
        role=role,
        content=body.content or "",
        reasoning=body.thinking,
        name=body.tool_name,
        tool_calls=tuple(_parse_call(call, f"call_{place}_{at}") for at, call in enumerate(body.tool_calls or ())),
        tool_call_id=body.tool_call_id,
    )


def _parse_call(body: ToolCallBody, id: str) -> ToolCall:
    """id: for a call that brings none, as most clients of Ollama send them."""
    written = body.function.arguments
    arguments = written if isinstance(written, str) else msgspec.json.encode(written or {}).decode()
    return ToolCall(body.id or id, body.function.name, arguments)
