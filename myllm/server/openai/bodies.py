"""What this dialect takes: the types that its bodies are validated with, and how they become requests.

What a client does not send has the default of OpenAI's API, not the model's own: a temperature of 1 and no cut-offs. Only
what ends an answer (`stop`, and `max_tokens` of a chat) is left to the model's settings.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from myllm.errors import InvalidRequest
from myllm.server.openai.messages import MessageBody, parse_messages
from myllm.server.openai.refused import CHAT, COMPLETION, refuse
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
from myllm.types import ChatRequest, CompletionRequest, Message

MAX_CHOICES = 256  # of one request: prompts times candidates
DEFAULT_COMPLETION_TOKENS = 16
DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}

NumChoices = Annotated[int, Meta(ge=1, le=16)]
NumLogprobs = Annotated[int, Meta(ge=0, le=20)]
Identifier = Annotated[str, Meta(max_length=512)]
Prompt = str | tuple[int, ...]


class StreamOptions(Struct):
    include_usage: bool | None = None


class SamplingBody(Struct, kw_only=True):
    """What chats, completions and responses have in common. `seed` -1 draws one, as leaving it out does."""

    model: str
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    logit_bias: dict[TokenID, Bias] | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    user: Identifier | None = None
    keep_alive: str | float | None = None

    def to_sampling(self, max_tokens: int | None, num_logprobs: int | None) -> dict[str, Any]:
        """What was given over OpenAI's defaults, by the names of SamplingParams, all but the seed. Raises InvalidRequest."""
        names = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "logit_bias", "ignore_eos")
        optional = {name: getattr(self, name) for name in names} | {
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "repeat_penalty": self._one_of("repeat_penalty", "repetition_penalty"),
            "stop": (self.stop,) if isinstance(self.stop, str) else None if self.stop is None else tuple(self.stop),
            "max_tokens": max_tokens,
            "num_logprobs": num_logprobs,
        }
        return DEFAULTS | {name: value for name, value in optional.items() if value is not None}

    def with_seed(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """With the seed that was given, or one that is drawn, also over the model's own; candidates of one seed differ by `choice`."""
        if self.seed is None:
            return sampling
        return sampling | {"seed": secrets.randbits(32) if self.seed == -1 else self.seed}

    def _one_of(self, name: str, other: str) -> Any:
        """Two names of one thing. Raises InvalidRequest where both are given and differ."""
        one, two = getattr(self, name), getattr(self, other)
        if one is not None and two is not None and one != two:
            raise InvalidRequest(f"'{other}' is {two} and '{name}' is {one}, and both mean the same; send one of them", param=other)
        return two if one is None else one


class GenerationBody(SamplingBody, kw_only=True):
    """What chats and completions have in common beside: several answers, and two names for how long they may be."""

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: NumChoices | None = None
    best_of: NumChoices | None = None
    stream_options: StreamOptions | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def num_candidates(self) -> int:
        return self.best_of or self.num_choices

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_together(self, streams: bool) -> None:
        """What a field's own range cannot say. Raises InvalidRequest."""
        if self.num_candidates < self.num_choices:
            raise InvalidRequest(f"'best_of' is {self.best_of} and 'n' is {self.n}; it takes n or more", param="best_of")
        if streams and self.best_of is not None and self.best_of > 1:
            raise InvalidRequest("'best_of' cannot be streamed: which answers are best is known at the end; use 'n'", param="best_of")
        if self.stream_options is not None and not streams:
            raise InvalidRequest("'stream_options' is taken with 'stream': true only", param="stream_options")

    def candidate_sampling(self, num_logprobs: int | None) -> dict[str, Any]:
        """Sampling of every candidate alike. Raises InvalidRequest."""
        sampling = self.to_sampling(self._one_of("max_tokens", "max_completion_tokens"), num_logprobs)
        if self.num_candidates > self.num_choices:
            sampling.setdefault("num_logprobs", 0)  # by which the best are found
        return sampling


class ChatBody(GenerationBody, kw_only=True):
    """`logprobs` may also be the number that `top_logprobs` holds, as in completions."""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    logprobs: bool | NumLogprobs | None = None
    top_logprobs: NumLogprobs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    session_id: str | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    reasoning_effort: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    store: Any = None
    verbosity: Any = None
    echo: Any = None
    suffix: Any = None

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told beside the picked one; None tells no log probabilities."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return (self.top_logprobs or 0) if self.logprobs is True else self.logprobs


class CompletionBody(GenerationBody, kw_only=True):
    """`prompt` is a text, token ids, or a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: NumLogprobs | None = None
    echo: bool | None = None
    suffix: str | None = None
    messages: Any = None
    session_id: Any = None
    chat_template_kwargs: Any = None
    top_logprobs: Any = None
    response_format: Any = None


class EmbeddingsBody(Struct, kw_only=True):
    """`input` is a text, token ids, or a list of either. Without a model, the default one answers."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: Identifier | None = None
    keep_alive: str | float | None = None


def parse_chat(body: ChatBody, streams: bool, max_messages: int) -> list[ChatRequest]:
    """A request a candidate, all alike but for `choice`, which tells them apart. Raises InvalidRequest."""
    refuse(body, CHAT)
    body.check_together(streams)
    _check_chat(body)
    return chat_requests(body, parse_messages(body.messages, max_messages))


def chat_requests(body: ChatBody, messages: tuple[Message, ...]) -> list[ChatRequest]:
    sampling, stay = body.candidate_sampling(body.num_logprobs), keep_alive_s(body.keep_alive)
    return [
        ChatRequest(
            model=body.model,
            messages=messages,
            sampling=body.with_seed(sampling),
            session_id=body.session_id,
            uses_session=body.session_id is not None,
            keep_alive_s=stay,
            template_kwargs=body.chat_template_kwargs or {},
            choice=candidate,
        )
        for candidate in range(body.num_candidates)
    ]


def parse_completion(body: CompletionBody, streams: bool) -> list[CompletionRequest]:
    """A request a candidate, those of the first prompt first. Raises InvalidRequest."""
    refuse(body, COMPLETION)
    body.check_together(streams)
    prompts = parse_inputs(body.prompt, "prompt")
    if len(prompts) * body.num_candidates > MAX_CHOICES:
        told = f"{len(prompts):,} prompts with {body.num_candidates} answers each"
        raise InvalidRequest(f"'prompt' asks for {told}; a request takes {MAX_CHOICES} answers at most", param="prompt")
    sampling, stay = body.candidate_sampling(body.logprobs), keep_alive_s(body.keep_alive)
    sampling.setdefault("max_tokens", DEFAULT_COMPLETION_TOKENS)
    if body.echo and body.logprobs is not None:
        sampling["prompt_logprobs"] = True
    return [
        CompletionRequest(body.model, prompt, body.with_seed(sampling), stay, body.suffix or None, choice=candidate)
        for prompt in prompts
        for candidate in range(body.num_candidates)
    ]


def parse_inputs(given: str | list[str | int | list[int]], name: str) -> list[Prompt]:
    """A text, token ids, or a list of either, as a list. Raises InvalidRequest for a list of several kinds."""
    if isinstance(given, str):
        return [given]
    kinds = set(map(type, given))  # no loop of Python over what may be millions of tokens
    if kinds == {int}:
        return [token_ids(cast(list[int], given), name)]
    if kinds == {str}:
        return cast(list[Prompt], given)
    if kinds == {list}:
        return [token_ids(each, name) for each in cast(list[list[int]], given)]
    problem = "is empty" if not given else "mixes texts and tokens"
    raise InvalidRequest(f"'{name}' {problem}; it takes a text, tokens, or a list of either", param=name)


def token_ids(given: list[int], name: str) -> tuple[int, ...]:
    if given and (min(given) < 0 or max(given) >= 2**31):
        raise InvalidRequest(f"'{name}' holds a number that is no token id; these are 0 or more", param=name)
    return tuple(given)


def _check_chat(body: ChatBody) -> None:
    if body.top_logprobs is not None and (body.logprobs is None or body.logprobs is False):
        raise InvalidRequest("'top_logprobs' is taken with 'logprobs': true only", param="top_logprobs")
    if body.top_logprobs is not None and body.logprobs is not True and body.logprobs != body.top_logprobs:
        raise InvalidRequest(
            f"'logprobs' is {body.logprobs} and 'top_logprobs' is {body.top_logprobs}; send true and a number", param="logprobs"
        )
    if body.session_id is not None and body.num_candidates > 1:
        raise InvalidRequest(
            "'session_id' takes one answer, for a session goes on with one; leave 'n' and 'best_of' out", param="session_id"
        )
