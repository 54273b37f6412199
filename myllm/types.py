"""The words that every room speaks: messages, sampling parameters, requests and events. Pure values, no behaviour.

Nothing here knows a dialect, a database or llama.cpp. Whatever a client sends is turned into a `ChatRequest` or a
`CompletionRequest` by its dialect, and whatever the engine produces comes back as a stream of `Event`s.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

Role = Literal["system", "developer", "user", "assistant", "tool"]


class FinishReason(str, Enum):
    """Why a generation ended."""

    STOP = "stop"  # an end token of the vocabulary, or a stop string
    LENGTH = "length"  # max_tokens, or no room left in the context
    CANCELLED = "cancelled"  # the client left, or the model was unloaded


class ToolCall(Struct, frozen=True, omit_defaults=True):
    """A call that the model asked for; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation. `reasoning` is what the model thought before `content`; it is never mixed in."""

    role: Role
    content: str
    reasoning: str | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Span(Struct, frozen=True, array_like=True):
    """A run of prompt text. In a literal one, control tokens are the letters that somebody wrote and mean nothing."""

    text: str
    is_literal: bool = False


Prompt = tuple[Span, ...]  # in order; tokenised span by span, so a text without literals is one span


class SamplingParams(Struct, frozen=True, omit_defaults=True):
    """How tokens are picked; every field has its neutral or usual value as default.

    temperature 0 is argmax. top_k 0, top_p 1, min_p 0 and typical_p 1 are off; so are repeat_penalty 1 and the other
    penalties at 0. `penalty_last_n` counts tokens back from the newest, prompt included; -1 means the whole context.
    `max_tokens` None generates to the end of the context. `seed` None draws one. `num_logprobs` None tells no log
    probabilities, 0 the picked token's alone, n also the n likeliest tokens at its place; `prompt_logprobs` tells them for
    the prompt as well, which is then evaluated anew from its first token.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    num_logprobs: int | None = None
    prompt_logprobs: bool = False

    def updated(self, overrides: dict[str, Any]) -> SamplingParams:
        """A copy in which each given value replaces the default; None means not given."""
        given = {name: value for name, value in overrides.items() if value is not None}
        return msgspec.structs.replace(self, **given) if given else self


class ChatRequest(Struct, frozen=True):
    """One chat call, of no dialect. `sampling` holds only what the client gave (names of SamplingParams).

    think: None lets the model's template decide nothing (off); True or an effort asks for reasoning.
    template_kwargs: further variables for the chat template, by the names that it knows.
    trims: a history that does not fit loses its oldest turns, and is not refused; None: where a session keeps it.
    continues_last: the last message is the assistant's, and what is generated goes on with it.
    before: tokens of an earlier prompt and its answer, in front of the rendered messages. template: Jinja for this request alone.
    choice, context_size, num_keep, engine: as in CompletionRequest.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: dict[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    uses_session: bool = False
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive_s: float | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    continues_last: bool = False
    trims: bool | None = None
    before: tuple[int, ...] = ()
    template: str | None = None
    choice: int = 0
    context_size: int | None = None
    num_keep: int | None = None
    engine: dict[str, Any] = field(default_factory=dict)


class CompletionRequest(Struct, frozen=True):
    """Raw text in, its continuation out; control tokens in `prompt` are parsed as such.

    suffix: what comes after the gap that is to be filled, on a model with fill-in-the-middle tokens. Such a request's
    texts are code, not markup: control tokens in them are letters.
    choice: which of several answers to one prompt this is, from 0; it is added to the seed, whoever set that, so that they differ.
    context_size: what it takes of the model's context at most, prompt and answer together. num_keep: a prompt that does not
    fit loses tokens behind its first `num_keep`, and is not refused; None: it is. engine: what the model must be loaded with,
    by the names of EngineOptions; where it is loaded otherwise it is loaded anew.
    """

    model: str
    prompt: str | tuple[int, ...]
    sampling: dict[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None
    suffix: str | None = None
    choice: int = 0
    context_size: int | None = None
    num_keep: int | None = None
    engine: dict[str, Any] = field(default_factory=dict)


class Usage(Struct, frozen=True):
    """Tokens as the engine counted them; `prompt_tokens` includes `cached_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class TokenLogprob(Struct, frozen=True, array_like=True):
    """A token of the answer (or of the prompt), and how likely the model itself held it.

    `text` is what the token added to the text: the texts of all tokens, one after the other, are the text, so a token that
    only begins a character adds "" and the one that completes it all of it. `raw` are the token's own bytes. `logprob` is of
    the model's distribution before bias, penalties and temperature; None for the first token of a prompt, which nothing
    predicted. `top` are the likeliest tokens at its place (raw, logprob), the likeliest first.
    """

    token_id: int
    text: str
    raw: bytes
    logprob: float | None
    top: tuple[tuple[bytes, float], ...] = ()


class TextDelta(Struct, frozen=True):
    """Whole characters of the answer, never a part of a stop string; with logprobs, its tokens."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class PromptLogprobs(Struct, frozen=True):
    """The prompt's tokens, all of them, before the first TextDelta; only where they were asked for."""

    tokens: tuple[TokenLogprob, ...]


class ReasoningDelta(Struct, frozen=True):
    """Whole characters of the model's thoughts."""

    text: str


class Finished(Struct, frozen=True):
    """The last event of every generation that did not fail."""

    reason: FinishReason
    usage: Usage


Event = TextDelta | ReasoningDelta | PromptLogprobs | Finished


class Delta(Struct, frozen=True, array_like=True):
    """What one engine step added to one generation; `id` is the request's.

    The last one has `finish` and `usage`, and `error` (code, message) where it ended because something broke. `logprobs`
    are of the tokens whose text it brings; `prompt_logprobs`, on one delta before the first text, of the prompt's.
    `stop_string` is the one that ended it, where one did.
    """

    id: int
    text: str
    finish: FinishReason | None = None
    usage: Usage | None = None
    error: tuple[str, str] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    stop_string: str | None = None


class LoadPlan(Struct, frozen=True, kw_only=True):
    """What a load was decided to be, with nothing left to choose.

    context_length: tokens that one sequence may have. num_cells: what all sequences share. gpu_layers: 0 is none.
    """

    context_length: int
    num_cells: int
    num_slots: int
    gpu_layers: int

    @property
    def num_rows(self) -> int:
        """Rows of logits that one step may ask for: one a slot, and some for prompts that are told with log probabilities."""
        return max(self.num_slots, 32)


class GPU(Struct, frozen=True):
    """A device that llama.cpp can put layers on."""

    name: str
    free_bytes: int
    total_bytes: int


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What a worker knows of the model that it has loaded.

    `context_length` bounds one sequence (prompt and answer together), `num_cells` all sequences together.
    `control_tokens` are the texts that llama.cpp would read as control tokens of this vocabulary. `mapped_bytes` are the
    weights that stay in the mapped file (no copy of them was made), `device_bytes` what was allocated on each GPU.
    `can_fill_in`: it has fill-in-the-middle tokens. `can_rank`: it scores a document for a query.
    """

    context_length: int
    num_cells: int
    parallel: int
    vocab_size: int
    embedding_length: int
    bos_token: str
    eos_token: str
    control_tokens: tuple[str, ...]
    chat_template: str | None
    can_generate: bool
    is_recurrent: bool
    can_fill_in: bool = False
    can_rank: bool = False
    load_ms: int
    mapped_bytes: int
    device_bytes: dict[str, int]


class EngineStats(Struct, frozen=True, array_like=True):
    """A worker's load at this moment; counters run since it started."""

    running: int = 0
    waiting: int = 0
    cells_used: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    tokens_per_second: float = 0.0
