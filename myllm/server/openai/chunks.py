"""A streamed answer's chunks: what does not change is encoded once, so that a token costs its own text and a join.

A `Chunks` belongs to one request. Called with what one engine step brought for all its choices, it gives their chunks in
order; after the last of them comes the usage, where that was asked for, and `is_complete` tells that nothing follows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import msgspec

from myllm.reply import Choices
from myllm.server.openai.answers import ChatChunk, ChatLogprobs, CompletionChunk, CompletionLogprobs
from myllm.server.openai.bodies import ChatBody, CompletionBody
from myllm.server.openai.identity import Identity
from myllm.server.openai.logprobs import aligned, chat_logprobs, completion_logprobs
from myllm.server.openai.render import finish_word, session_of, usage_of
from myllm.types import Event, Finished, PromptLogprobs, TextDelta

Logprobs = ChatLogprobs | CompletionLogprobs

_encode = msgspec.json.Encoder().encode


class Chunks(ABC):
    """Of a chat or a completion; what the two write differently is in the methods below."""

    def __init__(self, body: ChatBody | CompletionBody, identity: Identity) -> None:
        self._identity = identity
        self._includes_usage = body.includes_usage
        self._num_candidates = body.num_candidates  # of one prompt
        self._head = b""
        self._tail = b'],"usage":null}' if self._includes_usage else b"]}"
        self._num_running = 0

    @property
    def is_complete(self) -> bool:
        return bool(self._head) and not self._num_running

    def __call__(self, choices: Choices, events: Sequence[tuple[int, Event]]) -> Iterator[bytes]:
        """The chunks of these events, each one JSON. Raises Unavailable where an answer was called off."""
        if not self._head:
            self._num_running = len(choices.replies)
            self._head = _encode(self._about(choices)).rpartition(b'"choices":[')[0] + b'"choices":['
            yield from self._opening(self._num_running)
        for index, event in events:
            if isinstance(event, TextDelta):
                yield self._text(index, event)
            elif isinstance(event, PromptLogprobs):
                yield from self._prompt(index, event)
            elif isinstance(event, Finished):
                yield from self._ending(choices, index, event)

    def as_events(self, choices: Choices, events: Sequence[tuple[int, Event]]) -> bytes:
        """The same as server-sent events, in one piece."""
        sent = b"".join([b"data: %b\n\n" % chunk for chunk in self(choices, events)])
        return sent + b"data: [DONE]\n\n" if self.is_complete else sent

    def _ending(self, choices: Choices, index: int, event: Finished) -> Iterator[bytes]:
        word = finish_word(event.reason)
        if suffix := choices.replies[index].unfilled_suffix:
            yield self._text(index, TextDelta(suffix))
        yield self._choice(index, self._nothing, finish_word=b'"%b"' % word.encode())
        self._num_running -= 1
        if not self._num_running and self._includes_usage:
            yield self._head + b'],"usage":' + _encode(usage_of(choices.replies, self._num_candidates)) + b"}"

    def _choice(self, index: int, content: bytes, logprobs: Logprobs | None = None, finish_word: bytes = b"null") -> bytes:
        """A chunk of one choice. content: the field that holds its text, encoded."""
        told = b"null" if logprobs is None else _encode(logprobs)
        return b'%b{"index":%d,%b,"logprobs":%b,"finish_reason":%b}%b' % (self._head, index, content, told, finish_word, self._tail)

    _nothing: bytes  # the content of a chunk without a text

    @abstractmethod
    def _about(self, choices: Choices) -> ChatChunk | CompletionChunk:
        """A chunk without choices, from which all others are made."""

    @abstractmethod
    def _opening(self, num_choices: int) -> Iterator[bytes]:
        """What comes before all text."""

    @abstractmethod
    def _text(self, index: int, event: TextDelta) -> bytes: ...

    def _prompt(self, index: int, event: PromptLogprobs) -> Iterator[bytes]:
        """What tells the prompt's tokens; a chat tells none."""
        return iter(())


class ChatChunks(Chunks):
    """The role first, with a content that is empty; then content, and at last a delta without anything."""

    _nothing = b'"delta":{}'

    def __init__(self, body: ChatBody, identity: Identity) -> None:
        super().__init__(body, identity)
        self._tells_logprobs = body.num_logprobs is not None

    def _about(self, choices: Choices) -> ChatChunk:
        session_id, truncated_messages = session_of(choices.replies[0])
        return ChatChunk(
            id=self._identity.id,
            created=self._identity.created,
            model=choices.model,
            system_fingerprint=self._identity.system_fingerprint,
            session_id=session_id,
            truncated_messages=truncated_messages,
            choices=[],
        )

    def _opening(self, num_choices: int) -> Iterator[bytes]:
        for index in range(num_choices):
            yield self._choice(index, b'"delta":{"role":"assistant","content":""}')

    def _text(self, index: int, event: TextDelta) -> bytes:
        logprobs = chat_logprobs(event.logprobs) if self._tells_logprobs and event.logprobs else None
        return self._choice(index, b'"delta":{"content":%b}' % _encode(event.text), logprobs)


class CompletionChunks(Chunks):
    """echoes: what the choices of each prompt begin with, where the prompt is to be repeated."""

    _nothing = b'"text":""'

    def __init__(self, body: CompletionBody, identity: Identity, echoes: Sequence[str]) -> None:
        super().__init__(body, identity)
        self._echoes = echoes
        self._tells_logprobs = body.logprobs is not None
        self._offsets: list[int] = []  # of each choice's text: how much of it the tokens told so far make up
        self._echoed: set[int] = set()  # choices whose prompt's tokens were told

    def _about(self, choices: Choices) -> CompletionChunk:
        return CompletionChunk(
            id=self._identity.id,
            created=self._identity.created,
            model=choices.model,
            system_fingerprint=self._identity.system_fingerprint,
            choices=[],
        )

    def _opening(self, num_choices: int) -> Iterator[bytes]:
        self._offsets = [0] * num_choices
        if self._tells_logprobs:
            return  # an echo comes with its tokens
        for index in range(num_choices):
            if echo := self._echoes[index // self._num_candidates]:
                yield self._choice(index, b'"text":%b' % _encode(echo))

    def _text(self, index: int, event: TextDelta) -> bytes:
        logprobs = None
        if self._tells_logprobs and event.logprobs:
            logprobs = completion_logprobs(event.logprobs, self._offsets[index])
            self._offsets[index] += sum(len(token.text) for token in event.logprobs)
        return self._choice(index, b'"text":%b' % _encode(event.text), logprobs)

    def _prompt(self, index: int, event: PromptLogprobs) -> Iterator[bytes]:
        if index in self._echoed:
            return  # told before the worker was replaced
        self._echoed.add(index)
        echo = self._echoes[index // self._num_candidates]
        self._offsets[index] = len(echo)
        yield self._choice(index, b'"text":%b' % _encode(echo), completion_logprobs(aligned(event.tokens, echo), 0))
