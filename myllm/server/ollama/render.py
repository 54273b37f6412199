"""What the Ollama dialect tells of a running reply: lines of a stream, the last of them, and answers as a whole. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from myllm.errors import MyLLMError
from myllm.server.ollama.answers import ChatAnswer, DebugInfo, DoneReason, GenerateAnswer, Logprob, MessageAnswer, TopLogprob
from myllm.server.ollama.errors import describe_midway
from myllm.server.ollama.running import Running
from myllm.server.streaming import encode_line
from myllm.types import Event, FinishReason, ReasoningDelta, TextDelta, TokenLogprob

_encode = msgspec.json.Encoder().encode
LEFT_OUT = "x-myllm-truncated"
_DONE_REASONS: dict[FinishReason, DoneReason] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}


class GenerateForm:
    """How `generate` tells text and thoughts."""

    text = (b'","response":', b',"done":false')
    thought = (b'","response":"","thinking":', b',"done":false')

    def whole(self, model: str, text: str, **rest: Any) -> GenerateAnswer:
        return GenerateAnswer(model=model, created_at=now(), response=text, **{"done": True, **rest})


class ChatForm:
    """How `chat` tells text and thoughts."""

    text = (b'","message":{"role":"assistant","content":', b'},"done":false')
    thought = (b'","message":{"role":"assistant","content":"","thinking":', b'},"done":false')

    def whole(self, model: str, text: str, **rest: Any) -> ChatAnswer:
        message = MessageAnswer(role="assistant", content=text)
        return ChatAnswer(model=model, created_at=now(), message=message, **{"done": True, **rest})


class Lines:
    """The lines of one stream. model: as it was asked for."""

    def __init__(self, form: GenerateForm | ChatForm, model: str) -> None:
        self._form = form
        self._model = model
        self._begin = b'{"model":' + _encode(model) + b',"created_at":"'

    def render(self, running: Running, events: list[Event]) -> bytes:
        """One step's lines, and the last one if it was the last step."""
        head = self._begin + now().encode()
        lines = b"".join(self._line(head, event) for event in events)
        if running.finish_reason is None:
            return lines
        return lines + encode_line(self._form.whole(self._model, "", **ending(running)))

    def render_error(self, error: MyLLMError) -> bytes:
        """The last line of a stream that broke: it says so, and that it is the last."""
        return encode_line(self._form.whole(self._model, "", error=describe_midway(error), done_reason="error"))

    def whole(self, running: Running) -> GenerateAnswer | ChatAnswer:
        """The answer without streaming."""
        rest = ending(running) | {"logprobs": logprobs(running.logprobs)}
        return self._form.whole(self._model, running.text, **rest)

    def nothing(self, reason: DoneReason) -> GenerateAnswer | ChatAnswer:
        """The answer to a request that only loads or unloads."""
        return self._form.whole(self._model, "", done_reason=reason)

    def rendered(self, prompt: str) -> GenerateAnswer | ChatAnswer:
        """The prompt alone, for who asked to see it."""
        return self._form.whole(self._model, "", done=False, debug_info=DebugInfo(prompt))

    def _line(self, head: bytes, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            before, after = self._form.text
            told = b',"logprobs":' + _encode(logprobs(event.logprobs)) if event.logprobs else b""
            return head + before + _encode(event.text) + after + told + b"}\n"
        if isinstance(event, ReasoningDelta):
            before, after = self._form.thought
            return head + before + _encode(event.text) + after + b"}\n"
        return b""


def ending(running: Running) -> dict[str, Any]:
    """What the last line tells beside model, time and text."""
    assert running.finish_reason is not None
    messages, tokens = running.truncated
    context = {"context": running.context} if running.context else {}
    return {
        **context,
        "done_reason": _DONE_REASONS[running.finish_reason],
        "total_duration": running.total_ns,
        "load_duration": running.load_ns,
        "prompt_eval_count": running.usage.prompt_tokens,
        "prompt_eval_duration": running.prompt_ns,
        "eval_count": running.usage.completion_tokens,
        "eval_duration": running.eval_ns,
        "truncated": True if messages or tokens else UNSET,
        "truncated_messages": messages or UNSET,
        "truncated_tokens": tokens or UNSET,
    }


def truncation_headers(running: Running) -> dict[str, str]:
    """A prompt that was cut is told before the answer begins."""
    messages, tokens = running.truncated
    return {LEFT_OUT: f"messages={messages}, tokens={tokens}"} if messages or tokens else {}


def logprobs(tokens: Iterable[TokenLogprob]) -> list[Logprob] | UnsetType:
    return [_logprob(token) for token in tokens] or UNSET


def now() -> str:
    """The time of an answer: RFC 3339 with nanoseconds."""
    return instant(time.time_ns())


def instant(epoch_ns: int) -> str:
    seconds, rest = divmod(epoch_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _logprob(token: TokenLogprob) -> Logprob:
    assert token.logprob is not None  # only a prompt's first token has none, and no prompt is told here
    top = [TopLogprob(raw.decode(errors="backslashreplace"), logprob, list(raw)) for raw, logprob in token.top]
    return Logprob(token=token.text, logprob=token.logprob, bytes=list(token.raw), top_logprobs=top or UNSET)
