"""One chat from start to finish: the only room that knows the store, the sessions, the templates and the manager.

A dialect hands in a `ChatRequest` or a `CompletionRequest` and gets a `Reply` to iterate; nothing here knows which
dialect it was. Entering the context does everything that can fail before the first byte: the model is found and loaded,
the history read, the prompt rendered and trimmed, the request accepted by the engine. Leaving it, however that happens,
stops the generation, stores the session's reply and gives the lease back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from myllm.caller import Caller
from myllm.chat.library import TemplateLibrary
from myllm.config import Settings
from myllm.context_window import Window, shortened_input
from myllm.errors import GenerationTimeout, InvalidRequest, WorkerDied
from myllm.loaded_model import ModelLease
from myllm.manager import NO_OPTIONS, ModelManager
from myllm.once import Once
from myllm.prompting import Prompter
from myllm.reply import Rendered, Reply, Timing
from myllm.sessions import NewResponse, Session, SessionInfo, SessionStore, StoredResponse
from myllm.spending import Spending
from myllm.store.catalog import BUNDLED_NAME
from myllm.store.pull import Puller
from myllm.store.pull_task import PullTask
from myllm.store.store import InstalledModel, Store
from myllm.types import ChatRequest, CompletionRequest, FinishReason, Message, SamplingParams, Span
from myllm.worker.handle import Generation

log = logging.getLogger("myllm.service")

T = TypeVar("T")
Start = Callable[[ModelLease], Awaitable[Generation]]
MOST_AROUND = 3  # tokens: one before a text, one behind it, one where two that are counted together would be one


@dataclass(frozen=True)
class Embeddings:
    """load_s: how long the model was waited for."""

    model: str
    vectors: list[npt.NDArray[np.float32]]
    num_tokens: int
    load_s: float


@dataclass(frozen=True)
class Ranking:
    """scores: one a document, in the documents' order; higher is better."""

    model: str
    scores: list[float]
    num_tokens: int


class Service:
    """One per server. `caller` is who asks: whose sessions it sees, whose tokens it spends."""

    def __init__(self, settings: Settings, store: Store, sessions: SessionStore, manager: ModelManager, library: TemplateLibrary) -> None:
        self.settings = settings
        self.store = store
        self.sessions = sessions
        self.manager = manager
        self.prompter = Prompter(settings, library)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def chat(self, request: ChatRequest, caller: Caller) -> AsyncIterator[Reply]:
        """A chat; with `uses_session` its history is the session's, and both sides of the turn are stored in it."""
        rendered: list[Rendered] = []
        if not request.uses_session:
            async with self._reply(request, caller, self._chat_start(request, request.messages, rendered)) as reply:
                reply.rendered = rendered[-1]
                yield reply
            return
        session_id = self.sessions.new_id() if request.session_id is None else request.session_id
        self.sessions.check_id(session_id)
        async with self._turn(session_id):
            history = await asyncio.to_thread(self.sessions.preview, session_id, request.messages, caller.owner)
            async with self._reply(request, caller, self._chat_start(request, history, rendered)) as reply:
                reply.session_id, reply.rendered = session_id, rendered[-1]
                async with self._stored(session_id, request, reply, caller.owner):
                    yield reply

    @asynccontextmanager
    async def complete(self, request: CompletionRequest, caller: Caller) -> AsyncIterator[Reply]:
        """The continuation of a text or of token ids, or what fills the gap between it and the suffix."""
        prompt = (Span(request.prompt),) if isinstance(request.prompt, str) else list(request.prompt)
        unfilled = request.suffix
        rendered = Rendered(prompt=prompt)

        async def start(lease: ModelLease) -> Generation:
            nonlocal unfilled
            sampling = self._sampling(lease, request)
            window = Window.of(lease.worker, request.context_size)
            if request.suffix is not None and lease.worker.info.can_fill_in:
                unfilled = None
                bounded = sampling if window.is_whole else window.bounded(sampling, await _num_tokens_around(lease, request))
                return await lease.worker.generate(prompt, bounded, suffix=request.suffix)
            fitted = await window.fit(prompt, sampling, num_keep=request.num_keep)
            rendered.truncated_tokens, rendered.prompt = fitted.num_cut, fitted.prompt
            return await lease.worker.generate(fitted.prompt, fitted.sampling)

        async with self._reply(request, caller, start) as reply:
            reply.unfilled_suffix, reply.rendered = unfilled, rendered
            yield reply

    async def embed(
        self,
        model: str,
        inputs: Sequence[str | list[int]],
        caller: Caller,
        *,
        dimensions: int | None = None,
        context_size: int | None = None,
        may_cut: bool = False,
        keep_alive_s: float | None = None,
        engine: Mapping[str, Any] = NO_OPTIONS,
    ) -> Embeddings:
        """One L2-normalised vector an input, in order; `dimensions` keeps so many and normalises anew.

        context_size: tokens that an input may have, if fewer than the model's. may_cut: one that has more loses its end and is
        not refused. engine: as in CompletionRequest.
        """
        asked = time.monotonic()

        async def work(lease: ModelLease) -> Embeddings:
            load_s = time.monotonic() - asked
            length = lease.worker.info.embedding_length
            if dimensions is not None and dimensions > length:
                raise InvalidRequest(f"'dimensions' takes 1 to {length:,}, what model '{lease.name}' has", param="dimensions")
            taken = await _taken(lease, inputs, context_size, may_cut)
            if spending.is_counted:
                await spending.begin(await _num_tokens(lease, taken))
            vectors, num_tokens = await lease.worker.embed(taken)
            return Embeddings(lease.name, [_shortened(vector, dimensions) for vector in vectors], num_tokens, load_s)

        async with Spending(caller.budget) as spending:
            embeddings = await self._on_worker(model, work, keep_alive_s, engine)
            spending.num_used = embeddings.num_tokens
        return embeddings

    async def rank(self, model: str, query: str, documents: Sequence[str], caller: Caller) -> Ranking:
        """How well each document answers the query, as the model scores it. Raises UnsupportedByModel."""

        async def work(lease: ModelLease) -> Ranking:
            if spending.is_counted:
                await spending.begin(await _num_tokens(lease, documents) + len(documents) * await _num_tokens(lease, [query]))
            scores, num_tokens = await lease.worker.rank(query, list(documents))
            return Ranking(lease.name, scores, num_tokens)

        async with Spending(caller.budget) as spending:
            ranking = await self._on_worker(model, work)
            spending.num_used = ranking.num_tokens
        return ranking

    async def count_tokens(self, request: ChatRequest) -> int:
        """How many tokens the chat's prompt has, template included."""

        async def work(lease: ModelLease) -> int:
            prompt = await self.prompter.render(lease, request, request.messages)
            return len(await lease.worker.tokenize(prompt))

        return await self._on_worker(request.model, work)

    async def render(self, request: ChatRequest) -> str:
        """The chat's prompt as text, whole."""

        async def work(lease: ModelLease) -> str:
            return "".join(span.text for span in await self.prompter.render(lease, request, request.messages))

        return await self._on_worker(request.model, work)

    async def tokenize(self, model: str, content: str, *, add_special: bool, parse_special: bool) -> list[int]:
        spans = (Span(content, is_literal=not parse_special),)
        return await self._on_worker(model, lambda lease: lease.worker.tokenize(spans, add_special=add_special))

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        return await self._on_worker(model, lambda lease: lease.worker.detokenize(token_ids))

    async def _on_worker(
        self,
        model: str,
        work: Callable[[ModelLease], Awaitable[T]],
        keep_alive_s: float | None = None,
        engine: Mapping[str, Any] = NO_OPTIONS,
    ) -> T:
        """What `work` makes of the model; once more on a new worker if the first one dies over it."""
        try:
            async with self.manager.lease(model, keep_alive_s, engine) as lease:
                return await work(lease)
        except WorkerDied as death:
            log.warning("%s; trying once more", death.message)
        async with self.manager.lease(model, keep_alive_s, engine) as lease:
            return await work(lease)

    async def list_models(self) -> list[InstalledModel]:
        return await asyncio.to_thread(self.store.list)

    async def resolve(self, name: str) -> InstalledModel:
        return await asyncio.to_thread(self.store.resolve, name)

    async def default_model(self) -> str:
        """What answers where no model is named: the setting's, else the only installed one, else the bundled one."""
        if self.settings.default_model:
            return self.settings.default_model
        installed = await self.list_models()
        return installed[0].name if len(installed) == 1 else BUNDLED_NAME

    async def remove_model(self, name: str) -> str:
        """Unload and forget a model. Raises Conflict for the bundled one."""
        installed = await self.resolve(name)
        await asyncio.to_thread(self.store.remove, name)  # the full name: a prefix may find, but not delete
        await self.manager.forget(installed.name)
        return installed.name

    @asynccontextmanager
    async def pull(self, name: str) -> AsyncIterator[PullTask]:
        """A pull that runs; leaving the context before its end stops it, and the next one goes on from there."""
        task = PullTask(Puller(self.store), name)
        try:
            await task.started()
            yield task
        finally:
            await task.end()

    async def list_sessions(self, limit: int, offset: int, caller: Caller) -> list[SessionInfo]:
        return list(await asyncio.to_thread(self.sessions.list, limit, offset, caller.owner))

    async def get_session(self, session_id: str, caller: Caller) -> Session:
        return await asyncio.to_thread(self.sessions.get, session_id, caller.owner)

    async def rename_session(self, session_id: str, title: str, caller: Caller) -> SessionInfo:
        return await asyncio.to_thread(self.sessions.set_title, session_id, title, caller.owner)

    async def delete_session(self, session_id: str, caller: Caller) -> None:
        await asyncio.to_thread(self.sessions.delete, session_id, caller.owner)

    async def fork_session(self, session_id: str, at: int | None, caller: Caller) -> SessionInfo:
        return await asyncio.to_thread(self.sessions.fork, session_id, at, caller.owner)

    async def get_response(self, response_id: str, caller: Caller) -> StoredResponse:
        return await asyncio.to_thread(self.sessions.get_response, response_id, caller.owner)

    async def add_response(self, response: NewResponse, session_id: str | None, caller: Caller) -> str | None:
        """Store it in the session of the previous one, whose id is given; in a fork of that while a request is at work in it."""
        if session_id is None or self._turns.setdefault(session_id, asyncio.Lock()).locked():
            return await asyncio.to_thread(self.sessions.add_response, response, caller.owner, may_go_on=False)
        async with self._turn(session_id):
            return await asyncio.to_thread(self.sessions.add_response, response, caller.owner)

    async def delete_response(self, response_id: str, caller: Caller) -> None:
        await asyncio.to_thread(self.sessions.delete_response, response_id, caller.owner)

    async def close(self) -> None:
        """End the workers and close the database."""
        await self.manager.close()
        self.sessions.close()

    @asynccontextmanager
    async def _reply(self, request: ChatRequest | CompletionRequest, caller: Caller, start: Start) -> AsyncIterator[Reply]:
        """A started generation with its lease; `start` runs again, on a new worker, if the first one dies unseen."""
        timing, max_tokens = Timing(asked=time.monotonic()), request.sampling.get("max_tokens")
        async with Spending(caller.budget) as spending, AsyncExitStack() as stack:

            async def begin() -> Generation:
                await stack.aclose()
                lease = await stack.enter_async_context(self.manager.lease(request.model, request.keep_alive_s, request.engine))
                timing.leased = time.monotonic()
                generation = await start(lease)
                stack.callback(generation.cancel)
                stack.callback(self._limit(generation).cancel)
                names.append(lease.name)
                num_prompt_tokens = generation.num_prompt_tokens
                await spending.begin(num_prompt_tokens, max_tokens, lease.worker.info.context_length - num_prompt_tokens)
                return generation

            names: list[str] = []
            restart: Callable[[], Awaitable[Generation]] | None = begin
            try:
                generation = await begin()
            except WorkerDied as death:
                log.warning("%s; trying once more", death.message)
                generation, restart = await begin(), None
            reply = Reply(names[-1], generation, restart, spending)
            reply.timing = timing
            try:
                yield reply
            finally:
                spending.num_used = reply.num_paid

    def _limit(self, generation: Generation) -> asyncio.TimerHandle:
        limit_s = self.settings.request_timeout
        error = GenerationTimeout(f"the answer was not finished after {limit_s:g} s; raise request_timeout or lower max_tokens")
        return asyncio.get_running_loop().call_later(min(limit_s, 1e8), generation.fail, error)

    def _chat_start(self, request: ChatRequest, messages: tuple[Message, ...], rendered: list[Rendered]) -> Start:
        async def start(lease: ModelLease) -> Generation:
            sampling = self._sampling(lease, request)
            fitted, told = await self.prompter.prompt(lease, request, messages, sampling)
            rendered[:] = [told]
            return await lease.worker.generate(fitted.prompt, fitted.sampling)

        return start

    def sampling_defaults(self, installed: InstalledModel) -> dict[str, Any]:
        """What the model's file, its alias and the settings say, the later over the earlier."""
        return installed.metadata.sampling_defaults | installed.parameters | self.settings.sampling_defaults(installed.name)

    def _sampling(self, lease: ModelLease, request: ChatRequest | CompletionRequest) -> SamplingParams:
        params = SamplingParams().updated(self.sampling_defaults(lease.installed)).updated(request.sampling)
        if params.seed is None:
            return params
        return params.updated({"seed": (params.seed + request.choice + 2**63) % 2**64 - 2**63})  # a seed has 64 bits

    @asynccontextmanager
    async def _turn(self, session_id: str) -> AsyncIterator[None]:
        """Requests of one session run one after the other."""
        lock = self._turns.setdefault(session_id, asyncio.Lock())
        async with lock:
            yield

    @asynccontextmanager
    async def _stored(self, session_id: str, request: ChatRequest, reply: Reply, owner: str | None) -> AsyncIterator[None]:
        """The user's messages are stored before the first token, the answer when it ends, however it ends."""
        history = await asyncio.to_thread(self.sessions.append_turn, session_id, request.messages, model=reply.model, owner=owner)

        async def add_reply() -> None:
            await asyncio.to_thread(
                self.sessions.add_reply,
                session_id,
                Message("assistant", reply.text),
                model=reply.model,
                finish_reason=reply.finish_reason or FinishReason.CANCELLED,
                usage=reply.usage,
                born=history.born,
            )

        saved = Once(add_reply)

        async def save() -> None:
            if reply.text or reply.finish_reason not in (None, FinishReason.CANCELLED):  # else a retry finds the history it expects
                await saved()

        reply.on_end(save)
        try:
            yield
        finally:  # also when the client left
            await save()


async def _num_tokens(lease: ModelLease, inputs: Sequence[str | list[int]]) -> int:
    """What a worker will count of these inputs, or a little more: each has tokens around it that a vocabulary wants."""
    texts = tuple(Span(each, is_literal=True) for each in inputs if isinstance(each, str))
    num_in_texts = len(await lease.worker.tokenize(texts, add_special=False)) if texts else 0
    return num_in_texts + sum(len(each) for each in inputs if not isinstance(each, str)) + MOST_AROUND * len(inputs)


async def _num_tokens_around(lease: ModelLease, request: CompletionRequest) -> int:
    """What a gap has on both sides, and the tokens that say which side is which."""
    spans = [Span(text, is_literal=True) for text in (request.prompt, request.suffix) if isinstance(text, str)]
    return len(await lease.worker.tokenize(tuple(spans))) + (len(request.prompt) if not isinstance(request.prompt, str) else 0) + 3


async def _taken(lease: ModelLease, inputs: Sequence[str | list[int]], context_size: int | None, may_cut: bool) -> list[str | list[int]]:
    """The inputs, each as long as it may be; what the model itself does not take is for the worker to refuse."""
    trained = lease.installed.metadata.context_length
    longest = min(context_size or trained, trained) if trained else context_size
    if longest is None or not (may_cut or context_size):
        return list(inputs)
    return [await shortened_input(lease.worker, each, longest, may_cut=may_cut) if isinstance(each, str) else each for each in inputs]


def _shortened(vector: npt.NDArray[np.float32], dimensions: int | None) -> npt.NDArray[np.float32]:
    if dimensions is None or dimensions >= len(vector):
        return vector
    short = vector[:dimensions]
    length = float(np.linalg.norm(short))
    return short / length if length > 0 else short
