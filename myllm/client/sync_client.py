"""`Client`: the server as a Python object, for programs without asyncio. What each method sends is described in `calls`."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from myllm.client import calls, results
from myllm.client.calls import JSON, Call, Messages, StreamCall
from myllm.client.connection import Connection
from myllm.client.events import Reader
from myllm.client.options import ChatOptions, LoadOptions, Options
from myllm.client.results import Answer, Completion, PullProgress
from myllm.client.streams import Stream

T = TypeVar("T")
R = TypeVar("R")


class Client:
    """A MyLLM server. Threads may share a Client; close it, or use it in a `with`.

    base_url: where the server is, `MYLLM_HOST` or http://127.0.0.1:8000 by default. api_key: `MYLLM_API_KEY` by default. timeout:
    how many seconds to wait for the server's next byte; None waits as long as it takes to load and to answer, and 30 s
    where no model is involved. A server that does not accept a connection within 5 s is unreachable in any case.

    Every method raises the errors of `myllm.errors`: the server's own, or ServerUnreachable. A model that is not loaded is
    loaded by the first request that needs it.
    """

    def __init__(self, base_url: str | None = None, *, api_key: str | None = None, timeout: float | None = None) -> None:
        self._connection = Connection(base_url, api_key, timeout)
        self._http = httpx.Client(**self._connection.settings())

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    def chat(self, model: str, messages: Messages, *, session_id: str | None = None, **options: Unpack[ChatOptions]) -> Answer:
        """The model's answer to a text, or to a list of messages.

        session_id: the conversation that this continues, or begins; without it a new one begins, and the answer tells its id.
        The server remembers: send only what is new.
        """
        return self._call(calls.chat(model, messages, session_id, options))

    def chat_stream(
        self, model: str, messages: Messages, *, session_id: str | None = None, **options: Unpack[ChatOptions]
    ) -> Stream[str, Answer]:
        """As `chat`, piece by piece: `with client.chat_stream(…) as stream: for text in stream: …`, then `stream.answer`."""
        return self._stream(calls.chat_stream(model, messages, session_id, options))

    def session(self, session_id: str | None = None) -> Session:
        """A conversation to go on in, or to begin; None is a new one. Nothing is sent by this."""
        return Session(self, str(uuid.uuid4()) if session_id is None else session_id)

    def generate(self, model: str, prompt: str, **options: Unpack[Options]) -> Completion:
        """The continuation of a text, without chat template and session."""
        return self._call(calls.generate(model, prompt, options))

    def generate_stream(self, model: str, prompt: str, **options: Unpack[Options]) -> Stream[str, Completion]:
        """As `generate`, piece by piece."""
        return self._stream(calls.generate_stream(model, prompt, options))

    def embed(self, model: str, input: str | Sequence[str]) -> results.Embeddings:
        """A vector of length 1 for each text, in order; one text is as a list of one."""
        return self._call(calls.embed(model, input))

    def rerank(self, model: str, query: str, documents: Sequence[str], *, top_n: int | None = None) -> results.Ranking:
        """The documents by how well they answer the query; top_n: only so many of the best."""
        return self._call(calls.rerank(model, query, documents, top_n))

    def tokenize(self, model: str, content: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """The ids of a text's tokens.

        add_special: begin with what the model's prompts begin with. parse_special: read control tokens in it as such.
        """
        return self._call(calls.tokenize(model, content, add_special=add_special, parse_special=parse_special))

    def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        return self._call(calls.detokenize(model, tokens))

    def models(self) -> list[results.Model]:
        """All models that are installed, by name."""
        return self._call(calls.models())

    def model(self, name: str) -> results.Model:
        """One model, with its `details`."""
        return self._call(calls.model(name))

    def load(self, name: str, **options: Unpack[LoadOptions]) -> results.Done:
        """Load a model, and return when it is loaded; at once if it is. Other options than it has load it anew."""
        return self._call(calls.load(name, options))

    def unload(self, name: str) -> results.Done:
        """Unload a model, and return when the requests that it answers have ended."""
        return self._call(calls.unload(name))

    def delete_model(self, name: str) -> results.Done:
        """Uninstall a model; its name must be spelled out."""
        return self._call(calls.delete_model(name))

    def pull(self, name: str) -> Stream[PullProgress, PullProgress]:
        """Fetch a model from the Hugging Face Hub: `for progress in client.pull(name)`, or `client.pull(name).finish()`.

        Nothing is fetched before the iteration. One that is left stops the pull; the next one goes on from there.
        """
        return self._stream(calls.pull(name))

    def sessions(self, *, limit: int = 100, offset: int = 0) -> list[results.SessionInfo]:
        """The stored conversations, newest first."""
        return self._call(calls.sessions(limit, offset))

    def read_session(self, session_id: str) -> results.StoredSession:
        """A stored conversation with its messages."""
        return self._call(calls.read_session(session_id))

    def rename_session(self, session_id: str, title: str) -> results.SessionInfo:
        """Set a conversation's title."""
        return self._call(calls.rename_session(session_id, title))

    def delete_session(self, session_id: str) -> results.Done:
        """Forget a conversation."""
        return self._call(calls.delete_session(session_id))

    def fork_session(self, session_id: str, at: int | None = None) -> results.SessionInfo:
        """A new conversation that begins with the first `at` messages of this one, with all by default."""
        return self._call(calls.fork_session(session_id, at))

    def status(self) -> results.Status:
        """What is loaded, and how busy it is."""
        return self._call(calls.status())

    def health(self) -> results.Health:
        """Whether the server is ready. It answers this while it starts and while it stops, and without a key."""
        return self._call(calls.health())

    def request(self, call: Call[Any]) -> JSON:
        """The server's answer to a call of `myllm.client.calls` as it came: every field, and no other value."""
        return self._call(calls.as_sent(call))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _call(self, call: Call[T]) -> T:
        with self._connection.translated():
            response = self._http.request(**self._connection.request(call))
        return self._connection.read(call, response)

    def _stream(self, call: StreamCall[T, R]) -> Stream[T, R]:
        reader = call.reader()
        return Stream(self._batches(call, reader), reader)

    def _batches(self, call: StreamCall[T, R], reader: Reader[T, R]) -> Generator[list[T], None, None]:
        with self._connection.translated(), self._http.stream(**self._connection.request(call)) as response:
            if not response.is_success:
                response.read()
                raise self._connection.error(call, response)
            self._connection.check_events(response)
            yield []
            for chunk in response.iter_bytes():
                yield reader.feed(chunk)
                reader.check()
        reader.end()


class Session:
    """A conversation that the server stores, under an id. `client.session(…)` makes one."""

    def __init__(self, client: Client, session_id: str) -> None:
        self.id = session_id
        self._client = client

    def chat(self, model: str, messages: Messages, **options: Unpack[ChatOptions]) -> Answer:
        """The model's answer, with the conversation before it in mind."""
        return self._client.chat(model, messages, session_id=self.id, **options)

    def chat_stream(self, model: str, messages: Messages, **options: Unpack[ChatOptions]) -> Stream[str, Answer]:
        """As `chat`, piece by piece."""
        return self._client.chat_stream(model, messages, session_id=self.id, **options)

    def read(self) -> results.StoredSession:
        """All that was said. Raises SessionNotFound before the first answer."""
        return self._client.read_session(self.id)

    def rename(self, title: str) -> results.SessionInfo:
        """Set its title."""
        return self._client.rename_session(self.id, title)

    def fork(self, at: int | None = None) -> Session:
        """A new conversation that begins with the first `at` messages of this one, with all by default."""
        return self._client.session(self._client.fork_session(self.id, at).id)

    def delete(self) -> results.Done:
        """Forget it."""
        return self._client.delete_session(self.id)
