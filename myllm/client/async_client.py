"""`AsyncClient`: `Client` for asyncio, method for method. What each sends is described in `calls`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from myllm.client import calls, results
from myllm.client.calls import JSON, Call, Messages, StreamCall
from myllm.client.connection import Connection
from myllm.client.events import Reader
from myllm.client.options import ChatOptions, LoadOptions, Options
from myllm.client.results import Answer, Completion, PullProgress
from myllm.client.streams import AsyncStream
from myllm.client.sync_client import Client, Session

T = TypeVar("T")
R = TypeVar("R")


class AsyncClient:
    """A MyLLM server, as `Client` is one: the same methods, awaited. Its streams are for `async with` and `async for`.

    Tasks may share an AsyncClient, of one event loop. A task that is cancelled stops what the server was doing for it. Close
    it with `aclose`, or use it in an `async with`.
    """

    def __init__(self, base_url: str | None = None, *, api_key: str | None = None, timeout: float | None = None) -> None:
        self._connection = Connection(base_url, api_key, timeout)
        self._http = httpx.AsyncClient(**self._connection.settings())

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    async def chat(self, model: str, messages: Messages, *, session_id: str | None = None, **options: Unpack[ChatOptions]) -> Answer:
        return await self._call(calls.chat(model, messages, session_id, options))

    def chat_stream(
        self, model: str, messages: Messages, *, session_id: str | None = None, **options: Unpack[ChatOptions]
    ) -> AsyncStream[str, Answer]:
        return self._stream(calls.chat_stream(model, messages, session_id, options))

    def session(self, session_id: str | None = None) -> AsyncSession:
        return AsyncSession(self, str(uuid.uuid4()) if session_id is None else session_id)

    async def generate(self, model: str, prompt: str, **options: Unpack[Options]) -> Completion:
        return await self._call(calls.generate(model, prompt, options))

    def generate_stream(self, model: str, prompt: str, **options: Unpack[Options]) -> AsyncStream[str, Completion]:
        return self._stream(calls.generate_stream(model, prompt, options))

    async def embed(self, model: str, input: str | Sequence[str]) -> results.Embeddings:
        return await self._call(calls.embed(model, input))

    async def rerank(self, model: str, query: str, documents: Sequence[str], *, top_n: int | None = None) -> results.Ranking:
        return await self._call(calls.rerank(model, query, documents, top_n))

    async def tokenize(self, model: str, content: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return await self._call(calls.tokenize(model, content, add_special=add_special, parse_special=parse_special))

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        return await self._call(calls.detokenize(model, tokens))

    async def models(self) -> list[results.Model]:
        return await self._call(calls.models())

    async def model(self, name: str) -> results.Model:
        return await self._call(calls.model(name))

    async def load(self, name: str, **options: Unpack[LoadOptions]) -> results.Done:
        return await self._call(calls.load(name, options))

    async def unload(self, name: str) -> results.Done:
        return await self._call(calls.unload(name))

    async def delete_model(self, name: str) -> results.Done:
        return await self._call(calls.delete_model(name))

    def pull(self, name: str) -> AsyncStream[PullProgress, PullProgress]:
        return self._stream(calls.pull(name))

    async def sessions(self, *, limit: int = 100, offset: int = 0) -> list[results.SessionInfo]:
        return await self._call(calls.sessions(limit, offset))

    async def read_session(self, session_id: str) -> results.StoredSession:
        return await self._call(calls.read_session(session_id))

    async def rename_session(self, session_id: str, title: str) -> results.SessionInfo:
        return await self._call(calls.rename_session(session_id, title))

    async def delete_session(self, session_id: str) -> results.Done:
        return await self._call(calls.delete_session(session_id))

    async def fork_session(self, session_id: str, at: int | None = None) -> results.SessionInfo:
        return await self._call(calls.fork_session(session_id, at))

    async def status(self) -> results.Status:
        return await self._call(calls.status())

    async def health(self) -> results.Health:
        return await self._call(calls.health())

    async def request(self, call: Call[Any]) -> JSON:
        return await self._call(calls.as_sent(call))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.aclose()

    async def _call(self, call: Call[T]) -> T:
        with self._connection.translated():
            response = await self._http.request(**self._connection.request(call))
        return self._connection.read(call, response)

    def _stream(self, call: StreamCall[T, R]) -> AsyncStream[T, R]:
        reader = call.reader()
        return AsyncStream(self._batches(call, reader), reader)

    async def _batches(self, call: StreamCall[T, R], reader: Reader[T, R]) -> AsyncGenerator[list[T], None]:
        with self._connection.translated():
            async with self._http.stream(**self._connection.request(call)) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._connection.error(call, response)
                self._connection.check_events(response)
                yield []
                async for chunk in response.aiter_bytes():
                    yield reader.feed(chunk)
                    reader.check()
        reader.end()


class AsyncSession:
    """A conversation that the server stores, under an id, as `Session` is one. `client.session(…)` makes it."""

    def __init__(self, client: AsyncClient, session_id: str) -> None:
        self.id = session_id
        self._client = client

    async def chat(self, model: str, messages: Messages, **options: Unpack[ChatOptions]) -> Answer:
        return await self._client.chat(model, messages, session_id=self.id, **options)

    def chat_stream(self, model: str, messages: Messages, **options: Unpack[ChatOptions]) -> AsyncStream[str, Answer]:
        return self._client.chat_stream(model, messages, session_id=self.id, **options)

    async def read(self) -> results.StoredSession:
        return await self._client.read_session(self.id)

    async def rename(self, title: str) -> results.SessionInfo:
        return await self._client.rename_session(self.id, title)

    async def fork(self, at: int | None = None) -> AsyncSession:
        return self._client.session((await self._client.fork_session(self.id, at)).id)

    async def delete(self) -> results.Done:
        return await self._client.delete_session(self.id)


def _explain(ours: type, theirs: type) -> None:
    """The methods do the same, so they are explained once."""
    for name, method in vars(ours).items():
        if callable(method) and not method.__doc__:
            method.__doc__ = getattr(theirs, name, method).__doc__


_explain(AsyncClient, Client)
_explain(AsyncSession, Session)
