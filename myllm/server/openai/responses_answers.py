"""What `/v1/responses` answers, as types: a response, the items of its input, and the events of a stream."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from myllm.server.openai.answers import ChatTokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any] = field(default_factory=list)
    logprobs: list[ChatTokenLogprob] = field(default_factory=list)


class InputText(Struct, tag_field="type", tag="input_text"):
    text: str


class OutputMessage(Struct, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"


class InputMessage(Struct, tag_field="type", tag="message"):
    """A message of the conversation that a response answered; `content` is `output_text` where the model said it."""

    id: str
    role: str
    content: list[InputText | OutputText]
    status: ItemStatus = "completed"


class InputItems(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[InputMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CachedTokens(Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningTokens(Struct):
    reasoning_tokens: int = 0


class ResponseUsage(Struct):
    """`input_tokens` includes those that were cached."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseError(Struct):
    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens"]


class ResponseAnswer(Struct, kw_only=True):
    """A response, also while it is made. `truncated_messages`: how many the prompt left out, only with `truncation: auto`."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool = False
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, None] = field(default_factory=lambda: {"effort": None, "summary": None})
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: dict[str, dict[str, str]] = field(default_factory=lambda: {"format": {"type": "text"}})
    tool_choice: str
    tools: list[Any] = field(default_factory=list)
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None
    truncated_messages: int | UnsetType = UNSET


class DeletedResponse(Struct):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class Created(Struct, tag_field="type", tag="response.created"):
    response: ResponseAnswer
    sequence_number: int


class InProgress(Struct, tag_field="type", tag="response.in_progress"):
    response: ResponseAnswer
    sequence_number: int


class OutputItemAdded(Struct, tag_field="type", tag="response.output_item.added"):
    item: OutputMessage
    sequence_number: int
    output_index: int = 0


class ContentPartAdded(Struct, tag_field="type", tag="response.content_part.added"):
    item_id: str
    part: OutputText
    sequence_number: int
    output_index: int = 0
    content_index: int = 0


class OutputTextDelta(Struct, tag_field="type", tag="response.output_text.delta"):
    item_id: str
    delta: str
    logprobs: list[ChatTokenLogprob]
    sequence_number: int
    output_index: int = 0
    content_index: int = 0


class OutputTextDone(Struct, tag_field="type", tag="response.output_text.done"):
    item_id: str
    text: str
    logprobs: list[ChatTokenLogprob]
    sequence_number: int
    output_index: int = 0
    content_index: int = 0


class ContentPartDone(Struct, tag_field="type", tag="response.content_part.done"):
    item_id: str
    part: OutputText
    sequence_number: int
    output_index: int = 0
    content_index: int = 0


class OutputItemDone(Struct, tag_field="type", tag="response.output_item.done"):
    item: OutputMessage
    sequence_number: int
    output_index: int = 0


class Completed(Struct, tag_field="type", tag="response.completed"):
    response: ResponseAnswer
    sequence_number: int


class Incomplete(Struct, tag_field="type", tag="response.incomplete"):
    """The answer is as long as it may be."""

    response: ResponseAnswer
    sequence_number: int


class Failed(Struct, tag_field="type", tag="response.failed"):
    """Something broke once the stream had begun; `response.error` tells what."""

    response: ResponseAnswer
    sequence_number: int


ResponseEvent = (
    Created
    | InProgress
    | OutputItemAdded
    | ContentPartAdded
    | OutputTextDelta
    | OutputTextDone
    | ContentPartDone
    | OutputItemDone
    | Completed
    | Incomplete
    | Failed
)
