"""The native dialect's endpoints: each parses, calls the service and renders."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import psutil
from starlette.requests import Request
from starlette.responses import Response

from myllm import __version__
from myllm.caller import Caller
from myllm.reply import Reply
from myllm.server.bodies import decode, decode_query, read_body
from myllm.server.callers import caller_of, check_keep_alive, require_admin
from myllm.server.detail_form import render_stream_error
from myllm.server.json_response import json_response
from myllm.server.native.answers import Done, MemoryLine, ModelLine, ModelList, SessionList, StatusAnswer, TextAnswer, TokensAnswer
from myllm.server.native.bodies import (
    ChatBody,
    DetokenizeBody,
    EmbeddingsBody,
    ForkBody,
    GenerateBody,
    LoadBody,
    PullBody,
    SessionsQuery,
    TitleBody,
    TokenizeBody,
    parse_chat,
    parse_generate,
)  # fmt: skip
from myllm.server.native.render import (
    render_chat,
    render_embeddings,
    render_events,
    render_generate,
    render_model,
    render_pull,
    render_pull_event,
    render_status,
    render_waiting,
    render_whole_model,
)  # fmt: skip
from myllm.server.ranges import keep_alive_s
from myllm.server.ranking import RerankBody, render_ranking
from myllm.server.streaming import EventStream, while_connected
from myllm.service import Service
from myllm.types import ChatRequest, CompletionRequest

T = TypeVar("T")


class NativeAPI:
    """The endpoints; each parses, calls the service and renders."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.started = time.monotonic()
        self._max_bytes = service.settings.max_body_bytes

    async def list_models(self, request: Request) -> Response:
        installed = await self.service.list_models()
        return json_response(ModelList([render_model(model, self.service) for model in installed]))

    async def get_model(self, request: Request) -> Response:
        return json_response(render_whole_model(await self.service.resolve(request.path_params["name"]), self.service))

    async def pull_model(self, request: Request) -> Response:
        require_admin(request, "pull models")
        body = await self._body(request, PullBody)
        if _wants_stream(request, body.stream):
            keepalive_s = self.service.settings.keepalive_comment_s
            return EventStream(lambda: self.service.pull(body.name), render_pull_event, render_stream_error, keepalive_s)
        return await while_connected(request.receive, self._pull_whole(body.name))

    async def delete_model(self, request: Request) -> Response:
        require_admin(request, "remove models")
        name = await self.service.remove_model(request.path_params["name"])
        return json_response(Done(f"Model '{name}' removed"))

    async def load_model(self, request: Request) -> Response:
        require_admin(request, "load models")
        raw = await read_body(request, self._max_bytes)
        body = decode(raw, LoadBody) if raw.strip() else LoadBody()
        names = ("context_size", "gpu_layers", "parallel", "kv_cache_type")
        overrides = {name: value for name in names if (value := getattr(body, name)) is not None}
        work = self.service.manager.load(request.path_params["name"], overrides, keep_alive_s=keep_alive_s(body.keep_alive), pin=body.pin)
        name = await while_connected(request.receive, work)
        return json_response(Done(f"Model '{name}' loaded"))

    async def unload_model(self, request: Request) -> Response:
        require_admin(request, "unload models")
        name = await self.service.manager.unload(request.path_params["name"])
        return json_response(Done(f"Model '{name}' unloaded"))

    async def chat(self, request: Request) -> Response:
        body = await self._body(request, ChatBody)
        chat, caller = parse_chat(body, self.service.settings.max_messages), caller_of(request)
        check_keep_alive(request, chat.keep_alive_s)
        if _wants_stream(request, body.stream):
            return self._stream(lambda: self.service.chat(chat, caller))
        return await while_connected(request.receive, self._chat_whole(chat, caller))

    async def generate(self, request: Request) -> Response:
        body = await self._body(request, GenerateBody)
        completion, caller = parse_generate(body), caller_of(request)
        check_keep_alive(request, completion.keep_alive_s)
        if _wants_stream(request, body.stream):
            return self._stream(lambda: self.service.complete(completion, caller))
        return await while_connected(request.receive, self._generate_whole(completion, caller))

    async def embeddings(self, request: Request) -> Response:
        body = await self._body(request, EmbeddingsBody)
        inputs: list[str | list[int]] = [body.input] if isinstance(body.input, str) else [*body.input]
        embeddings = await while_connected(request.receive, self.service.embed(body.model, inputs, caller_of(request)))
        return json_response(render_embeddings(embeddings, is_list=isinstance(body.input, list)))

    async def rerank(self, request: Request) -> Response:
        body = await self._body(request, RerankBody)
        texts = body.texts
        ranking = await while_connected(request.receive, self.service.rank(body.model, body.query, texts, caller_of(request)))
        return json_response(render_ranking(ranking, body, texts))

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request, TokenizeBody)
        work = self.service.tokenize(body.model, body.content, add_special=body.add_special, parse_special=body.parse_special)
        return json_response(TokensAnswer(await while_connected(request.receive, work)))

    async def detokenize(self, request: Request) -> Response:
        body = await self._body(request, DetokenizeBody)
        return json_response(TextAnswer(await while_connected(request.receive, self.service.detokenize(body.model, body.tokens))))

    async def list_sessions(self, request: Request) -> Response:
        page = decode_query(request.query_params, SessionsQuery)
        return json_response(SessionList(await self.service.list_sessions(page.limit, page.offset, caller_of(request))))

    async def get_session(self, request: Request) -> Response:
        return json_response((await self.service.get_session(request.path_params["id"], caller_of(request))).to_dict())

    async def rename_session(self, request: Request) -> Response:
        body = await self._body(request, TitleBody)
        return json_response(await self.service.rename_session(request.path_params["id"], body.title, caller_of(request)))

    async def delete_session(self, request: Request) -> Response:
        await self.service.delete_session(request.path_params["id"], caller_of(request))
        return json_response(Done(f"Session '{request.path_params['id']}' deleted"))

    async def fork_session(self, request: Request) -> Response:
        raw = await read_body(request, self._max_bytes)
        body = decode(raw, ForkBody) if raw.strip() else ForkBody()
        return json_response(await self.service.fork_session(request.path_params["id"], body.at, caller_of(request)))

    async def status(self, request: Request) -> Response:
        memory = psutil.virtual_memory()
        answer = StatusAnswer(
            version=__version__,
            uptime_s=round(time.monotonic() - self.started, 3),
            memory=MemoryLine(memory.total, memory.available, self.service.settings.memory_budget),
            models=self._model_lines(),
        )
        return json_response(answer)

    def _model_lines(self) -> list[ModelLine]:
        manager = self.service.manager
        loaded = {model.name: render_status(model) for model in manager.loaded()}
        return [*loaded.values(), *(render_waiting(*line) for line in manager.waiting().items() if line[0] not in loaded)]

    async def _body(self, request: Request, kind: type[T]) -> T:
        return decode(await read_body(request, self._max_bytes), kind)

    def _stream(self, open: Callable[[], AbstractAsyncContextManager[Reply]]) -> EventStream[Reply]:
        return EventStream(open, render_events, render_stream_error, self.service.settings.keepalive_comment_s)

    async def _chat_whole(self, chat: ChatRequest, caller: Caller) -> Response:
        async with self.service.chat(chat, caller) as reply:
            await reply.finish()
        return json_response(render_chat(reply))

    async def _pull_whole(self, name: str) -> Response:
        async with self.service.pull(name) as task:
            return json_response(render_pull(await task.finish()))

    async def _generate_whole(self, completion: CompletionRequest, caller: Caller) -> Response:
        async with self.service.complete(completion, caller) as reply:
            await reply.finish()
        return json_response(render_generate(reply))


def _wants_stream(request: Request, stream: bool | None) -> bool:
    """The body decides; where it is silent, a client that accepts events gets them."""
    return "text/event-stream" in request.headers.get("accept", "") if stream is None else stream
