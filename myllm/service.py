"""One chat from start to finish: the only room that knows the store, the sessions, the templates and the manager.

A dialect hands in a `ChatRequest` or a `CompletionRequest` and gets a `Reply` to iterate; nothing here knows which
dialect it was. Entering the context does everything that can fail before the first byte: the model is found and loaded,
the history read, the prompt rendered and trimmed, the request accepted by the engine. Leaving it, however that happens,
stops the generation, stores the session's reply and gives the lease back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import numpy.typing as npt

from myllm.chat.library import TemplateLibrary
from myllm.chat.template import ChatTemplate
from myllm.config import Settings
from myllm.errors import GenerationTimeout, UnsupportedByModel, WorkerDied
from myllm.loaded_model import ModelLease
from myllm.manager import ModelManager
from myllm.sessions import Session, SessionInfo, SessionStore
from myllm.store.pull import Puller
from myllm.store.pull_task import PullTask
from myllm.store.store import InstalledModel, Store
from myllm.types import (
    ChatRequest,
    CompletionRequest,
    Delta,
    Event,
    Finished,
    FinishReason,
    Message,
    Prompt,
    SamplingParams,
    Span,
    TextDelta,
    Usage,
)  # fmt: skip
from myllm.worker.handle import Generation, Worker

log = logging.getLogger("myllm.service")

T = TypeVar("T")
Start = Callable[[ModelLease], Awaitable[Generation]]
ANSWER_SHARE = 4  # a trimmed history leaves at least a quarter of the context for the answer


class Reply:
    """A running generation: iterate for lists of events, one list for all that a step (or several) brought.

    `text`, `finish_reason` and `usage` grow as it is iterated. A worker that dies before anything was streamed is
    replaced once, unseen; later than that, WorkerDied is raised to the reader. Who asks for the whole with `finish` has
    seen nothing until the end, so there the answer begins anew.
    """

    def __init__(self, model: str, generation: Generation, restart: Callable[[], Awaitable[Generation]] | None) -> None:
        self.model = model
        self.session_id: str | None = None
        self.truncated_messages = 0
        self.finish_reason: FinishReason | None = None
        self.usage = Usage(generation.num_prompt_tokens)
        self._generation = generation
        self._restart = restart
        self._pieces: list[str] = []
        self._is_streamed = True
        self._on_end: Callable[[], Awaitable[None]] | None = None

    def on_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await this once the last token is there, before the last events are handed out."""
        self._on_end = callback

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        while self.finish_reason is None:
            try:
                async for deltas in self._generation:
                    events = self._events(deltas)
                    if self.finish_reason is not None and self._on_end is not None:
                        await self._on_end()
                    yield events
            except WorkerDied as death:
                if self._restart is None or (self._pieces and self._is_streamed):
                    raise
                log.warning("%s; trying once more", death.message)
                restart, self._restart = self._restart, None
                self._pieces.clear()
                self._generation = await restart()

    async def finish(self) -> Finished:
        """Run to the end without streaming."""
        self._is_streamed = False
        async for _ in self:
            pass
        assert self.finish_reason is not None
        return Finished(self.finish_reason, self.usage)

    def _events(self, deltas: list[Delta]) -> list[Event]:
        events: list[Event] = []
        for delta in deltas:
            if delta.text:
                self._pieces.append(delta.text)
                events.append(TextDelta(delta.text))
            if delta.finish is not None:
                self.finish_reason, self.usage = delta.finish, delta.usage or self.usage
                events.append(Finished(self.finish_reason, self.usage))
        return events


@dataclass(frozen=True)
class Embeddings:
    model: str
    vectors: list[npt.NDArray[np.float32]]
    num_tokens: int


class Service:
    """One per server. `owner` is the name of the key that asks; None sees everything (no keys, or an admin)."""

    def __init__(self, settings: Settings, store: Store, sessions: SessionStore, manager: ModelManager, library: TemplateLibrary) -> None:
        self.settings = settings
        self.store = store
        self.sessions = sessions
        self.manager = manager
        self.library = library
        self._templates: WeakKeyDictionary[Worker, ChatTemplate] = WeakKeyDictionary()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def chat(self, request: ChatRequest, owner: str | None = None) -> AsyncIterator[Reply]:
        """A chat; with `uses_session` its history is the session's, and both sides of the turn are stored in it."""
        if not request.uses_session:
            async with self._reply(request, self._chat_start(request, request.messages)) as reply:
                yield reply
            return
        session_id = self.sessions.new_id() if request.session_id is None else request.session_id
        self.sessions.check_id(session_id)
        async with self._turn(session_id):
            history = await asyncio.to_thread(self.sessions.preview, session_id, request.messages, owner)
            trimmed = _Trimmed()
            async with self._reply(request, self._chat_start(request, history, trimmed)) as reply:
                reply.session_id, reply.truncated_messages = session_id, trimmed.num_messages
                async with self._stored(session_id, request, reply, owner):
                    yield reply

    @asynccontextmanager
    async def complete(self, request: CompletionRequest) -> AsyncIterator[Reply]:
        """The continuation of a text or of token ids."""
        prompt = (Span(request.prompt),) if isinstance(request.prompt, str) else list(request.prompt)

        async def start(lease: ModelLease) -> Generation:
            return await lease.worker.generate(prompt, self._sampling(lease, request.sampling))

        async with self._reply(request, start) as reply:
            yield reply

    async def embed(self, model: str, inputs: list[str | list[int]]) -> Embeddings:
        """One L2-normalised vector an input, in order."""

        async def work(lease: ModelLease) -> Embeddings:
            vectors, num_tokens = await lease.worker.embed(inputs)
            return Embeddings(lease.name, vectors, num_tokens)

        return await self._on_worker(model, work)

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

    async def list_sessions(self, limit: int, offset: int, owner: str | None = None) -> list[SessionInfo]:
        return list(await asyncio.to_thread(self.sessions.list, limit, offset, owner))

    async def get_session(self, session_id: str, owner: str | None = None) -> Session:
        return await asyncio.to_thread(self.sessions.get, session_id, owner)

    async def rename_session(self, session_id: str, title: str, owner: str | None = None) -> SessionInfo:
        return await asyncio.to_thread(self.sessions.set_title, session_id, title, owner)

    async def delete_session(self, session_id: str, owner: str | None = None) -> None:
        await asyncio.to_thread(self.sessions.delete, session_id, owner)

    async def fork_session(self, session_id: str, at: int | None, owner: str | None = None) -> SessionInfo:
        return await asyncio.to_thread(self.sessions.fork, session_id, at, owner)

    async def close(self) -> None:
        """End the workers and close the database."""
        await self.manager.close()
        self.sessions.close()

    @asynccontextmanager
    async def _reply(self, request: ChatRequest | CompletionRequest, start: Start) -> AsyncIterator[Reply]:
        """A started generation with its lease; `start` runs again, on a new worker, if the first one dies unseen."""
        async with AsyncExitStack() as stack:

            async def begin() -> Generation:
                await stack.aclose()
                lease = await stack.enter_async_context(self.manager.lease(request.model, request.keep_alive_s))
                generation = await start(lease)
                stack.callback(generation.cancel)
                stack.callback(self._limit(generation).cancel)
                names.append(lease.name)
                return generation

            names: list[str] = []
            restart: Callable[[], Awaitable[Generation]] | None = begin
            try:
                generation = await begin()
            except WorkerDied as death:
                log.warning("%s; trying once more", death.message)
                generation, restart = await begin(), None
            yield Reply(names[-1], generation, restart)

    def _limit(self, generation: Generation) -> asyncio.TimerHandle:
        limit_s = self.settings.request_timeout
        error = GenerationTimeout(f"the answer was not finished after {limit_s:g} s; raise request_timeout or lower max_tokens")
        return asyncio.get_running_loop().call_later(min(limit_s, 1e8), generation.fail, error)

    def _chat_start(self, request: ChatRequest, messages: tuple[Message, ...], trimmed: _Trimmed | None = None) -> Start:
        async def start(lease: ModelLease) -> Generation:
            sampling = self._sampling(lease, request.sampling)
            template = self._template(lease)
            if trimmed is None:
                prompt = await asyncio.to_thread(template.render, messages, think=request.think)
            else:
                prompt, trimmed.num_messages = await self._fit(lease.worker, template, messages, request, sampling)
            return await lease.worker.generate(prompt, sampling)

        return start

    async def _fit(
        self, worker: Worker, template: ChatTemplate, history: tuple[Message, ...], request: ChatRequest, sampling: SamplingParams
    ) -> tuple[Prompt, int]:
        """The prompt of the longest end of the history that leaves room for an answer, and how many messages it lost."""
        context = worker.info.context_length
        room = context - min(sampling.max_tokens or context, context // ANSWER_SHARE)

        async def attempt(num_dropped: int) -> tuple[Prompt, bool]:
            prompt = await asyncio.to_thread(template.render, drop_oldest(history, num_dropped), think=request.think)
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


def droppable(history: tuple[Message, ...]) -> list[int]:
    """How many messages may be dropped from the front (after the system's): whole turns, never the last user's."""
    first = _num_system(history)
    starts = [i for i, message in enumerate(history) if message.role == "user" and i > first]
    return [start - first for start in starts]


def drop_oldest(history: tuple[Message, ...], count: int) -> tuple[Message, ...]:
    """Without `count` messages after the leading system messages."""
    first = _num_system(history)
    return history[:first] + history[first + count :]


def _num_system(history: tuple[Message, ...]) -> int:
    count = 0
    while count < len(history) and history[count].role in ("system", "developer"):
        count += 1
    return count
