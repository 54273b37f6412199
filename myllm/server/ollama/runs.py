"""The endpoints that generate: `generate` and `chat`; each parses, calls the service and renders."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from myllm.caller import Caller
from myllm.errors import InvalidRequest, UnsupportedByModel
from myllm.reply import Reply
from myllm.server.callers import caller_of, check_keep_alive
from myllm.server.ollama.answers import json_answer
from myllm.server.ollama.bodies import ChatBody, GenerateBody, RunBody
from myllm.server.ollama.errors import told_of
from myllm.server.ollama.loading import engine_wishes
from myllm.server.ollama.names import quoted
from myllm.server.ollama.options import NUM_KEEP, Options, read_options
from myllm.server.ollama.reading import read
from myllm.server.ollama.render import ChatForm, GenerateForm, Lines, truncation_headers
from myllm.server.ollama.requests import Model, chat_request, generate_request
from myllm.server.ollama.running import Running, Shift, running
from myllm.server.ranges import keep_alive_s
from myllm.server.streaming import LINES, EventStream, while_connected
from myllm.service import Service
from myllm.types import ChatRequest, CompletionRequest

log = logging.getLogger("myllm.server")


class Asked(Struct):
    """A request, understood. started: when it came, by `time.monotonic`."""

    model: Model
    options: Options
    wishes: dict[str, Any]
    caller: Caller
    started: float


class Runs:
    """Models that write."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def generate(self, request: Request) -> Response:
        started = time.monotonic()
        body = await read(request, self.service, GenerateBody)
        lines = Lines(GenerateForm(), body.model or "")
        model = await self._model(body)
        if not body.prompt and not body.suffix:
            return await self._load(request, body, model, lines, "generate")
        asked = self._understand(request, body, model, started)
        return await self._run(request, body, asked, generate_request(body, model, asked.options, asked.wishes), lines)

    async def chat(self, request: Request) -> Response:
        started = time.monotonic()
        body = await read(request, self.service, ChatBody)
        if not body.model:
            raise InvalidRequest("model is required", param="model")
        lines, model = Lines(ChatForm(), body.model), await self._model(body)
        if not body.messages:
            return await self._load(request, body, model, lines, "chat")
        asked = self._understand(request, body, model, started)
        work = chat_request(body, model, asked.options, asked.wishes, self.service.settings.max_messages)
        return await self._run(request, body, asked, work, lines)

    async def _model(self, body: RunBody) -> Model:
        """Raises InvalidRequest and ModelNotFound in Ollama's words."""
        body.check()
        with told_of(body.model or ""):
            installed = await self.service.resolve(body.model or "")
        return Model(body.model or "", installed, self.service.sampling_defaults(installed))

    async def _load(self, request: Request, body: RunBody, model: Model, lines: Lines, verb: str) -> Response:
        """Load or unload: one answer, also where a stream was asked for."""
        manager, stay_s = self.service.manager, keep_alive_s(body.keep_alive)
        check_keep_alive(request, stay_s)
        if stay_s == 0:
            manager.let_go(model.installed.name)
            return json_answer(lines.nothing("unload"))
        if not model.can("completion"):
            raise UnsupportedByModel(f"{quoted(model.asked)} does not support {verb}", param="model")
        wishes = engine_wishes(request, manager, model.installed, read_options(body.options))
        await while_connected(request.receive, manager.load(model.installed.name, wishes, keep_alive_s=stay_s))
        return json_answer(lines.nothing("load"))

    def _understand(self, request: Request, body: RunBody, model: Model, started: float) -> Asked:
        check_keep_alive(request, keep_alive_s(body.keep_alive))
        options = read_options(body.options)
        wishes = engine_wishes(request, self.service.manager, model.installed, options)
        return Asked(model, options, wishes, caller_of(request), started)

    async def _run(self, request: Request, body: RunBody, asked: Asked, work: ChatRequest | CompletionRequest, lines: Lines) -> Response:
        if body.debug_render_only:
            return json_answer(lines.rendered(await while_connected(request.receive, self._prompt(work))))
        wants_context = isinstance(body, GenerateBody) and isinstance(work, ChatRequest)
        shift = self._shift(asked, work) if body.shift else None
        if body.stream is False:
            return await while_connected(request.receive, self._whole(asked, work, lines, shift, wants_context))
        return EventStream(
            lambda: self._running(asked, work, shift, wants_context),
            lines.render,
            lines.render_error,
            self.service.settings.keepalive_comment_s,
            headers=truncation_headers,
            media_type=LINES,
        )

    @asynccontextmanager
    async def _running(
        self, asked: Asked, work: ChatRequest | CompletionRequest, shift: Shift | None, wants_context: bool
    ) -> AsyncIterator[Running]:
        end = asked.model.end_token if wants_context else None
        with told_of(asked.model.asked):
            async with running(self._reply(work, asked.caller), asked.started, shift, wants_context=wants_context, end_token=end) as run:
                _warn_of_truncation(run, asked.model)
                yield run

    async def _whole(
        self, asked: Asked, work: ChatRequest | CompletionRequest, lines: Lines, shift: Shift | None, wants_context: bool
    ) -> Response:
        async with self._running(asked, work, shift, wants_context) as run:
            await run.finish()
            return json_answer(lines.whole(run), headers=truncation_headers(run))

    def _reply(self, work: ChatRequest | CompletionRequest, caller: Caller) -> AbstractAsyncContextManager[Reply]:
        return self.service.chat(work, caller) if isinstance(work, ChatRequest) else self.service.complete(work, caller)

    def _shift(self, asked: Asked, work: ChatRequest | CompletionRequest) -> Shift:
        longest = asked.options.sampling.get("max_tokens", asked.model.parameters.get("max_tokens"))
        num_keep = NUM_KEEP if work.num_keep is None else work.num_keep
        return Shift(work, lambda more: self.service.complete(more, asked.caller), num_keep=num_keep, max_tokens=longest)

    async def _prompt(self, work: ChatRequest | CompletionRequest) -> str:
        return await self.service.render(work) if isinstance(work, ChatRequest) else str(work.prompt)


def _warn_of_truncation(run: Running, model: Model) -> None:
    messages, tokens = run.truncated
    if messages or tokens:
        log.warning("a prompt for '%s' is longer than its context; left out: %d messages, %d tokens", model.asked, messages, tokens)
