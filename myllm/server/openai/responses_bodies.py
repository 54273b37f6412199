"""What `/v1/responses` takes: the types that its bodies are validated with, and how they become a `ChatRequest`.

As in the rest of the dialect, what a client does not send has the default of OpenAI's API, and a field that asks for what is
not there yet is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from myllm.errors import InvalidRequest, UnsupportedByModel
from myllm.server.openai.bodies import Identifier, NumLogprobs, SamplingBody
from myllm.server.openai.refused import NOT_YET, RESPONSE, refuse
from myllm.server.ranges import Count, keep_alive_s
from myllm.types import ChatRequest, Message

LOGPROBS = "message.output_text.logprobs"
# The others are about items that no answer of this server holds, so including them includes nothing.
Includable = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


class InputPart(Struct):
    """Parts of the types in TEXT_PARTS hold text; all others are refused by their name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Struct):
    """A message; all other items are refused by their type."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None


class TextFormat(Struct):
    """`text` is the only one yet."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class TextOptions(Struct):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseStreamOptions(Struct):
    include_obfuscation: bool | None = None


class ResponsesBody(SamplingBody, kw_only=True):
    """`previous_response_id` goes on from a stored response, without the instructions that it was given."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Count | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Includable] | None = None
    top_logprobs: NumLogprobs | None = None
    text: TextOptions | None = None
    metadata: Metadata | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "fast", "ultrafast", "scale"] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Any = None
    tool_choice: Any = None
    max_tool_calls: Any = None
    reasoning: Any = None
    background: Any = None
    background_options: Any = None
    conversation: Any = None
    prompt: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    context_management: Any = None
    moderation: Any = None
    image: Any = None
    access_programs: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    messages: Any = None
    session_id: Any = None
    n: Any = None
    best_of: Any = None
    logprobs: Any = None
    echo: Any = None
    suffix: Any = None
    response_format: Any = None
    reasoning_effort: Any = None

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told beside the picked one; None tells no log probabilities."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None

    def check(self) -> None:
        """Raises InvalidRequest for what a field's own range cannot say."""
        refuse(self, RESPONSE)
        if self.top_logprobs and self.num_logprobs is None:
            raise InvalidRequest(f"'top_logprobs' is taken with 'include': [\"{LOGPROBS}\"] only", param="top_logprobs")
        if self.text is not None and self.text.format is not None and self.text.format.type != "text":
            raise InvalidRequest(f"'text.format' of type '{self.text.format.type}' {NOT_YET}", param="text.format")
        if self.text is not None and self.text.verbosity in ("low", "high"):
            raise InvalidRequest("'text.verbosity' takes only 'medium' yet; leave it out", param="text.verbosity")
        if self.service_tier not in (None, "auto", "default"):
            raise InvalidRequest("'service_tier' takes 'auto' or 'default': this server has one tier", param="service_tier")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' is taken with 'stream': true only", param="stream_options")
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise InvalidRequest("'stream_options.include_obfuscation' takes only false", param="stream_options.include_obfuscation")


class ResponseQuery(Struct):
    """A stored response has ended: there is nothing to stream."""

    stream: bool = False


class ItemsQuery(Struct):
    """Which part of the list; `after` is the id of the item before it."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


def parse_input(body: ResponsesBody, max_messages: int) -> tuple[Message, ...]:
    """What the request brings, without its instructions. Raises InvalidRequest that names the item, and its part."""
    if isinstance(body.input, str):
        return (Message("user", body.input),)
    if len(body.input) > max_messages:
        raise InvalidRequest(f"'input' has {len(body.input):,} entries, at most {max_messages:,} are taken", param="input")
    return tuple(_message(item, f"input[{at}]") for at, item in enumerate(body.input))


def chat_request(body: ResponsesBody, history: tuple[Message, ...], brought: tuple[Message, ...]) -> ChatRequest:
    instructions = (Message("system", body.instructions),) if body.instructions is not None else ()
    return ChatRequest(
        body.model,
        (*instructions, *history, *brought),
        body.with_seed(body.to_sampling(body.max_output_tokens, body.num_logprobs)),
        keep_alive_s=keep_alive_s(body.keep_alive),
        template_kwargs=body.chat_template_kwargs or {},
        trims=body.truncation == "auto",
    )


def _message(item: InputItem, place: str) -> Message:
    if item.type != "message":
        raise InvalidRequest(f"'{place}' is of type '{item.type[:40]}', and only 'message' is supported yet", param=place)
    if item.role is None:
        raise InvalidRequest(f"'{place}.role' is required", param=f"{place}.role")
    if item.content is None:
        raise InvalidRequest(f"'{place}.content' is required", param=f"{place}.content")
    if isinstance(item.content, str):
        return Message(item.role, item.content)
    return Message(item.role, "\n".join(_text(part, f"{place}.content[{at}]") for at, part in enumerate(item.content)))


def _text(part: InputPart, place: str) -> str:
    field = TEXT_PARTS.get(part.type)
    if field is None:
        raise UnsupportedByModel(f"'{place}' is of type '{part.type[:40]}', and the model takes text only", param=place)
    text: str | None = getattr(part, field)
    if text is None:
        raise InvalidRequest(f"'{place}.{field}' is required", param=f"{place}.{field}")
    return text
