"""Each request that the client can make, described and not sent: a method, a path, a body, and how the answer is read.

Pure functions, one an endpoint, named as the methods of `Client` and `AsyncClient`, which send what they return. A range is the
server's to check; here is only refused what would reach it as something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from myllm.client import results
from myllm.client.events import PullReader, Reader, TextEvent, TextReader
from myllm.client.options import ChatOptions, LoadOptions, Options
from myllm.client.results import Answer, Completion, Message, PullProgress
from myllm.errors import InvalidRequest, ModelNotFound, NotFound, SessionNotFound

T = TypeVar("T")
R = TypeVar("R")
JSON = dict[str, Any]
Messages = str | Sequence[Message | Mapping[str, Any]]
"""A single thing that the user says, or a list of messages: `Message`s, or mappings with `role` and `content`."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request with one answer.

    read: makes a value of the answer's JSON; raises ValueError for what no MyLLM server sends. missing: what a 404 is about.
    takes_long: it takes as long as a model takes to load or to answer. accepts: statuses that are no errors here.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    body: JSON | None = None
    missing: type[NotFound] = NotFound
    takes_long: bool = False
    accepts: tuple[int, ...] = ()


@dataclass(frozen=True)
class StreamCall(Generic[T, R]):
    """A request that is answered with events; `reader` makes what reads them."""

    path: str
    body: JSON
    reader: Callable[[], Reader[T, R]]
    method: str = "POST"
    missing: type[NotFound] = ModelNotFound
    takes_long: bool = True


class _Models(Struct):
    models: list[results.Model]


class _Sessions(Struct):
    sessions: list[results.SessionInfo]


class _Tokens(Struct):
    tokens: list[int]


class _Content(Struct):
    content: str


def status() -> Call[results.Status]:
    return Call("GET", "/api/status", _reads(results.Status))


def health() -> Call[results.Health]:
    return Call("GET", "/health", _reads(results.Health), accepts=(503,))


def models() -> Call[list[results.Model]]:
    return Call("GET", "/api/models", lambda data: _reads(_Models)(data).models)


def model(name: str) -> Call[results.Model]:
    return Call("GET", _model_path(name), _reads(results.Model), missing=ModelNotFound)


def load(name: str, options: Mapping[str, Any]) -> Call[results.Done]:
    body = _given(options, LoadOptions)
    return Call("POST", f"{_model_path(name)}/load", _reads(results.Done), body, missing=ModelNotFound, takes_long=True)


def unload(name: str) -> Call[results.Done]:
    return Call("POST", f"{_model_path(name)}/unload", _reads(results.Done), missing=ModelNotFound, takes_long=True)


def delete_model(name: str) -> Call[results.Done]:
    return Call("DELETE", _model_path(name), _reads(results.Done), missing=ModelNotFound, takes_long=True)


def pull(name: str) -> StreamCall[PullProgress, PullProgress]:
    return StreamCall("/api/models/pull", {"name": name, "stream": True}, PullReader)


def chat(model: str, messages: Messages, session_id: str | None, options: Mapping[str, Any]) -> Call[Answer]:
    body = _chat_body(model, messages, session_id, options) | {"stream": False}
    return Call("POST", "/api/chat", _reads(Answer), body, missing=ModelNotFound, takes_long=True)


def chat_stream(model: str, messages: Messages, session_id: str | None, options: Mapping[str, Any]) -> StreamCall[str, Answer]:
    body = _chat_body(model, messages, session_id, options) | {"stream": True}
    return StreamCall("/api/chat", body, lambda: TextReader(_answer))


def generate(model: str, prompt: str, options: Mapping[str, Any]) -> Call[Completion]:
    body = {"model": model, "prompt": prompt, "stream": False, **_options(options, Options)}
    return Call("POST", "/api/generate", _reads(Completion), body, missing=ModelNotFound, takes_long=True)


def generate_stream(model: str, prompt: str, options: Mapping[str, Any]) -> StreamCall[str, Completion]:
    body = {"model": model, "prompt": prompt, "stream": True, **_options(options, Options)}
    return StreamCall("/api/generate", body, lambda: TextReader(_completion))


def embed(model: str, input: str | Sequence[str]) -> Call[results.Embeddings]:
    body = {"model": model, "input": [input] if isinstance(input, str) else list(input)}
    return Call("POST", "/api/embeddings", _reads(results.Embeddings), body, missing=ModelNotFound, takes_long=True)


def rerank(model: str, query: str, documents: Sequence[str], top_n: int | None) -> Call[results.Ranking]:
    body = {"model": model, "query": query, "documents": list(documents)} | ({} if top_n is None else {"top_n": top_n})
    return Call("POST", "/api/rerank", _reads(results.Ranking), body, missing=ModelNotFound, takes_long=True)


def tokenize(model: str, content: str, *, add_special: bool, parse_special: bool) -> Call[list[int]]:
    body = {"model": model, "content": content, "add_special": add_special, "parse_special": parse_special}
    return Call("POST", "/api/tokenize", lambda data: _reads(_Tokens)(data).tokens, body, missing=ModelNotFound, takes_long=True)


def detokenize(model: str, tokens: Sequence[int]) -> Call[str]:
    body = {"model": model, "tokens": list(tokens)}
    return Call("POST", "/api/detokenize", lambda data: _reads(_Content)(data).content, body, missing=ModelNotFound, takes_long=True)


def sessions(limit: int, offset: int) -> Call[list[results.SessionInfo]]:
    return Call("GET", f"/api/sessions?limit={limit}&offset={offset}", lambda data: _reads(_Sessions)(data).sessions)


def read_session(session_id: str) -> Call[results.StoredSession]:
    return Call("GET", _session_path(session_id), _reads(results.StoredSession), missing=SessionNotFound)


def rename_session(session_id: str, title: str) -> Call[results.SessionInfo]:
    return Call("PATCH", _session_path(session_id), _reads(results.SessionInfo), {"title": title}, missing=SessionNotFound)


def delete_session(session_id: str) -> Call[results.Done]:
    return Call("DELETE", _session_path(session_id), _reads(results.Done), missing=SessionNotFound)


def fork_session(session_id: str, at: int | None) -> Call[results.SessionInfo]:
    return Call("POST", f"{_session_path(session_id)}/fork", _reads(results.SessionInfo), {"at": at}, missing=SessionNotFound)


def as_sent(call: Call[Any]) -> Call[JSON]:
    """The same request, its answer read as the JSON object that it is."""
    return replace(call, read=_reads(JSON))


def _reads(kind: type[T]) -> Callable[[bytes], T]:
    return lambda data: msgspec.json.decode(data, type=kind)


def _answer(event: TextEvent) -> Answer:
    return Answer(
        message=Message(role="assistant", content=event.full_text, reasoning=event.reasoning),
        session_id=event.session_id,
        usage=event.usage,
        finish_reason=event.finish_reason,
        truncated_messages=event.truncated_messages,
    )


def _completion(event: TextEvent) -> Completion:
    return Completion(text=event.full_text, usage=event.usage, finish_reason=event.finish_reason)


def _chat_body(model: str, messages: Messages, session_id: str | None, options: Mapping[str, Any]) -> JSON:
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    session = {} if session_id is None else {"session_id": session_id}
    return {"model": model, "messages": said, **session, **_options(options, ChatOptions)}


def _options(options: Mapping[str, Any], kind: type) -> JSON:
    """The fields of a body that options go to: those of sampling in `options`, the others beside it."""
    given = _given(options, kind)
    beside: JSON = {name: given.pop(name) for name in ("keep_alive", "think") if name in given}
    return {**beside, "options": given}


def _given(options: Mapping[str, Any], kind: type) -> JSON:
    """The options that are not None. Raises TypeError for one that there is not, as for any wrong keyword."""
    known: frozenset[str] = kind.__optional_keys__  # type: ignore[attr-defined]  # a TypedDict's
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"there is no option {name!r}; the options are {', '.join(sorted(known))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"{name!r} is {value}, which is no number in JSON; keep_alive=-1 is for ever", param=name)
    return {name: value for name, value in options.items() if value is not None}


def _model_path(name: str) -> str:
    """`..` is escaped too, for it would lead to another endpoint."""
    parts = quote(name, safe="/:").split("/")
    return "/api/models/" + "/".join(part.replace(".", "%2E") if part in (".", "..") else part for part in parts)


def _session_path(session_id: str) -> str:
    """Raises InvalidRequest for what would be another path."""
    if not session_id or "/" in session_id or session_id in (".", ".."):
        takes = "session_id takes 1 to 128 letters (A-Z, a-z), digits, '.', '_' and '-', the first a letter or a digit"
        raise InvalidRequest(f"{takes}; not {session_id[:128]!r}", param="session_id")
    return f"/api/sessions/{quote(session_id, safe='')}"
