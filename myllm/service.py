"""One chat from start to finish: the only room that knows the store, the sessions, the templates and the manager.

A dialect hands in a `ChatRequest` or a `CompletionRequest` and gets a `Reply` to iterate; nothing here knows which
dialect it was. Entering the context does everything that can fail before the first byte: the model is found and loaded,
the history read, the prompt rendered and trimmed, the request accepted by the engine. Leaving it, however that happens,
stops the generation, stores the session's reply and gives the lease back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import numpy.typing as npt

from myllm.caller import ANYBODY, Caller
from myllm.chat.library import TemplateLibrary
from myllm.chat.template import ChatTemplate
from myllm.chat.trimming import drop_oldest, droppable
from myllm.config import Settings
from myllm.errors import GenerationTimeout, InvalidRequest, UnsupportedByModel, WorkerDied
from myllm.loaded_model import ModelLease
from myllm.manager import ModelManager
from myllm.reply import Reply
from myllm.sessions import Session, SessionInfo, SessionStore
from myllm.spending import Spending
from myllm.store.catalog import BUNDLED_NAME
from myllm.store.pull import Puller
from myllm.store.pull_task import PullTask
from myllm.store.store import InstalledModel, Store
from myllm.types import ChatRequest, CompletionRequest, FinishReason, Message, Prompt, SamplingParams, Span
from myllm.worker.handle import Generation, Worker

log = logging.getLogger("myllm.service")

T = TypeVar("T")
Start = Callable[[ModelLease], Awaitable[Generation]]
ANSWER_SHARE = 4  # a trimmed history leaves at least a quarter of the context for the answer


@dataclass(frozen=True)
class Embeddings:
    model: str
    vectors: list[npt.NDArray[np.float32]]
    num_tokens: int


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
        self.library = library
        self._templates: WeakKeyDictionary[Worker, ChatTemplate] = WeakKeyDictionary()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def chat(self, request: ChatRequest, caller: Caller = ANYBODY) -> AsyncIterator[Reply]:
        """A chat; with `uses_session` its history is the session's, and both sides of the turn are stored in it."""
        if not request.uses_session:
            async with self._reply(request, caller, self._chat_start(request, request.messages)) as reply:
                yield reply
            return
        session_id = self.sessions.new_id() if request.session_id is None else request.session_id
        self.sessions.check_id(session_id)
        async with self._turn(session_id):
            history = await asyncio.to_thread(self.sessions.preview, session_id, request.messages, caller.owner)
            trimmed = _Trimmed()
            async with self._reply(request, caller, self._chat_start(request, history, trimmed)) as reply:
                reply.session_id, reply.truncated_messages = session_id, trimmed.num_messages
                async with self._stored(session_id, request, reply, caller.owner):
                    yield reply

    @asynccontextmanager
    async def complete(self, request: CompletionRequest, caller: Caller = ANYBODY) -> AsyncIterator[Reply]:
        """The continuation of a text or of token ids, or what fills the gap between it and the suffix."""
        prompt = (Span(request.prompt),) if isinstance(request.prompt, str) else list(request.prompt)
        unfilled = request.suffix

        async def start(lease: ModelLease) -> Generation:
            nonlocal unfilled
            sampling = self._sampling(lease, request.sampling)
            if request.suffix is None or not lease.worker.info.can_fill_in:
                return await lease.worker.generate(prompt, sampling)
            unfilled = None
            return await lease.worker.generate(prompt, sampling, suffix=request.suffix)

        async with self._reply(request, caller, start) as reply:
            reply.unfilled_suffix = unfilled
            yield reply

    async def embed(
        self, model: str, inputs: Sequence[str | list[int]], caller: Caller = ANYBODY, *, dimensions: int | None = None
    ) -> Embeddings:
        """One L2-normalised vector an input, in order; `dimensions` keeps so many and normalises anew."""

        async def work(lease: ModelLease) -> Embeddings:
            length = lease.worker.info.embedding_length
            if dimensions is not None and dimensions > length:
                raise InvalidRequest(f"'dimensions' takes 1 to {length:,}, what model '{lease.name}' has", param="dimensions")
            vectors, num_tokens = await lease.worker.embed(list(inputs))
            return Embeddings(lease.name, [_shortened(vector, dimensions) for vector in vectors], num_tokens)

        async with _spending(caller, inputs) as spent:
            embeddings = await self._on_worker(model, work)
            spent(embeddings.num_tokens)
        return embeddings

    async def rank(self, model: str, query: str, documents: Sequence[str], caller: Caller = ANYBODY) -> Ranking:
        """How well each document answers the query, as the model scores it. Raises UnsupportedByModel."""

        async def work(lease: ModelLease) -> Ranking:
            scores, num_tokens = await lease.worker.rank(query, list(documents))
            return Ranking(lease.name, scores, num_tokens)

        async with _spending(caller, [query, *documents]) as spent:
            ranking = await self._on_worker(model, work)
            spent(ranking.num_tokens)
        return ranking

    async def count_tokens(self, request: ChatRequest) -> int:
        """How many tokens the chat's prompt has, template included."""

        async def work(lease: ModelLease) -> int:
            prompt = await self._render(self._template(lease), request, request.messages)
            return len(await lease.worker.tokenize(prompt))

        return await self._on_worker(request.model, work)

    async def tokenize(self, model: str, content: str, *, add_special: bool, parse_special: bool) -> list[int]:
        spans = (Span(content, is_literal=not parse_special),)
        return await self._on_worker(model, lambda lease: lease.worker.tokenize(spans, add_special=add_special))

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        return await self._on_worker(model, lambda lease: lease.worker.detokenize(token_ids))

    async def _on_worker(self, model: str, work: Callable[[ModelLease], Awaitable[T]]) -> T:
        """What `work` makes of the model; once more on a new worker if the first one dies over it."""
        try:
            async with self.manager.lease(model) as lease:
                return await work(lease)
        except WorkerDied as death:
            log.warning("%s; trying once more", death.message)
        async with self.manager.lease(model) as lease:
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

    def template_name(self, installed: InstalledModel) -> str | None:
        """What the model's chat template will be called; None where it cannot chat."""
        override = self._template_override(installed)
        if override is not None:
            return override.name if isinstance(override, Path) else override
        return "gguf" if installed.metadata.chat_template else None

    async def list_sessions(self, limit: int, offset: int, caller: Caller = ANYBODY) -> list[SessionInfo]:
        return list(await asyncio.to_thread(self.sessions.list, limit, offset, caller.owner))

    async def get_session(self, session_id: str, caller: Caller = ANYBODY) -> Session:
        return await asyncio.to_thread(self.sessions.get, session_id, caller.owner)

    async def rename_session(self, session_id: str, title: str, caller: Caller = ANYBODY) -> SessionInfo:
        return await asyncio.to_thread(self.sessions.set_title, session_id, title, caller.owner)

    async def delete_session(self, session_id: str, caller: Caller = ANYBODY) -> None:
        await asyncio.to_thread(self.sessions.delete, session_id, caller.owner)

    async def fork_session(self, session_id: str, at: int | None, caller: Caller = ANYBODY) -> SessionInfo:
        return await asyncio.to_thread(self.sessions.fork, session_id, at, caller.owner)

    async def close(self) -> None:
        """End the workers and close the database."""
        await self.manager.close()
        self.sessions.close()

    @asynccontextmanager
    async def _reply(self, request: ChatRequest | CompletionRequest, caller: Caller, start: Start) -> AsyncIterator[Reply]:
        """A started generation with its lease; `start` runs again, on a new worker, if the first one dies unseen."""
        spending = Spending(caller.budget, request.sampling.get("max_tokens"))
        async with AsyncExitStack() as stack:

            async def begin() -> Generation:
                await stack.aclose()
                lease = await stack.enter_async_context(self.manager.lease(request.model, request.keep_alive_s))
                generation = await start(lease)
                stack.callback(generation.cancel)
                stack.callback(self._limit(generation).cancel)
                names.append(lease.name)
                await spending.begin(generation.num_prompt_tokens)
                return generation

            names: list[str] = []
            restart: Callable[[], Awaitable[Generation]] | None = begin
            try:
                generation = await begin()
            except WorkerDied as death:
                log.warning("%s; trying once more", death.message)
                generation, restart = await begin(), None
            reply = Reply(names[-1], generation, restart, spending)
            try:
                yield reply
            finally:
                await asyncio.shield(spending.settle(reply.usage_so_far))

    def _limit(self, generation: Generation) -> asyncio.TimerHandle:
        limit_s = self.settings.request_timeout
        error = GenerationTimeout(f"the answer was not finished after {limit_s:g} s; raise request_timeout or lower max_tokens")
        return asyncio.get_running_loop().call_later(min(limit_s, 1e8), generation.fail, error)

    def _chat_start(self, request: ChatRequest, messages: tuple[Message, ...], trimmed: _Trimmed | None = None) -> Start:
        async def start(lease: ModelLease) -> Generation:
            sampling = self._sampling(lease, request.sampling)
            template = self._template(lease)
            if trimmed is None:
                prompt = await self._render(template, request, messages)
            else:
                prompt, trimmed.num_messages = await self._fit(lease.worker, template, messages, request, sampling)
            return await lease.worker.generate(prompt, sampling)

        return start

    @staticmethod
    async def _render(template: ChatTemplate, request: ChatRequest, messages: tuple[Message, ...]) -> Prompt:
        return await asyncio.to_thread(template.render, messages, think=request.think, extra=request.template_kwargs)

    async def _fit(
        self, worker: Worker, template: ChatTemplate, history: tuple[Message, ...], request: ChatRequest, sampling: SamplingParams
    ) -> tuple[Prompt, int]:
        """The prompt of the longest end of the history that leaves room for an answer, and how many messages it lost."""
        context = worker.info.context_length
        room = context - min(sampling.max_tokens or context, context // ANSWER_SHARE)

        async def attempt(num_dropped: int) -> tuple[Prompt, bool]:
            prompt = await self._render(template, request, drop_oldest(history, num_dropped))
            if sum(len(span.text.encode(errors="replace")) for span in prompt) < room:
                return prompt, True  # a token is at least one byte
            return prompt, len(await worker.tokenize(prompt)) <= room

        prompt, fits = await attempt(0)
        if fits:
            return prompt, 0
        choices = droppable(history)
        low, high, best = 0, len(choices) - 1, (prompt, 0)
        while low <= high:  # the fewest dropped messages that fit; what fits with n dropped fits with more
            middle = (low + high) // 2
            prompt, fits = await attempt(choices[middle])
            if fits or middle == len(choices) - 1:
                best = (prompt, choices[middle])
            low, high = (low, middle - 1) if fits else (middle + 1, high)
        return best

    def _template_override(self, installed: InstalledModel) -> str | Path | None:
        """A packaged template's name, or the operator's file: only the settings may name a file."""
        written = self.settings.template(installed.name)
        if written and ("/" in written or written.endswith(".jinja")):
            return Path(written).expanduser()
        return written or installed.template

    def _template(self, lease: ModelLease) -> ChatTemplate:
        """The model's template, compiled once a worker. Raises TemplateFailed."""
        template = self._templates.get(lease.worker)
        if template is None:
            info = lease.worker.info
            if not info.can_generate:
                raise UnsupportedByModel(f"model '{lease.name}' makes embeddings and cannot chat", param="model")
            source, name = self.library.choose(self._template_override(lease.installed), info.chat_template)
            template = ChatTemplate(
                source, name=name, bos_token=info.bos_token, eos_token=info.eos_token, control_tokens=info.control_tokens
            )
            self._templates[lease.worker] = template
        return template

    def sampling_defaults(self, installed: InstalledModel) -> dict[str, Any]:
        """What the model's file, its alias and the settings say, the later over the earlier."""
        return installed.metadata.sampling_defaults | installed.parameters | self.settings.sampling_defaults(installed.name)

    def _sampling(self, lease: ModelLease, given: dict[str, Any]) -> SamplingParams:
        return SamplingParams().updated(self.sampling_defaults(lease.installed)).updated(given)

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
        is_saved = False

        async def save() -> None:
            nonlocal is_saved
            if is_saved or (not reply.text and reply.finish_reason in (None, FinishReason.CANCELLED)):
                return  # said before, or nothing was said: then a retry finds the history that it expects
            is_saved = True
            await asyncio.to_thread(
                self.sessions.add_reply,
                session_id,
                Message("assistant", reply.text),
                model=reply.model,
                finish_reason=reply.finish_reason or FinishReason.CANCELLED,
                usage=reply.usage,
                born=history.born,
            )

        reply.on_end(save)
        try:
            yield
        finally:  # also when the client left: the thread runs on if we are cancelled once more
            await asyncio.shield(asyncio.ensure_future(save()))


class _Trimmed:
    num_messages = 0


@asynccontextmanager
async def _spending(caller: Caller, inputs: Sequence[str | list[int]]) -> AsyncIterator[Callable[[int], None]]:
    """Tokens of a request that generates nothing: an estimate is reserved, what it is told were really used is settled."""
    estimate = sum(len(each) if isinstance(each, list) else len(each.encode(errors="replace")) // 3 + 2 for each in inputs)
    used = 0

    def spent(num_tokens: int) -> None:
        nonlocal used
        used = num_tokens

    if caller.budget is None:
        yield spent
        return
    await caller.budget.reserve(estimate)
    try:
        yield spent
    finally:
        await asyncio.shield(caller.budget.settle(estimate, used))


def _shortened(vector: npt.NDArray[np.float32], dimensions: int | None) -> npt.NDArray[np.float32]:
    if dimensions is None or dimensions >= len(vector):
        return vector
    short = vector[:dimensions]
    length = float(np.linalg.norm(short))
    return short / length if length > 0 else short
