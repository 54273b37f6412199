"""The native dialect's endpoints: each parses, calls the service and renders."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import psutil
from starlette.requests import Request
from starlette.responses import Response

from myllm import __version__
from myllm.caller import Caller
from myllm.errors import InvalidRequest
from myllm.reply import Reply
from myllm.server.bodies import decode, read_body
from myllm.server.callers import caller_of
from myllm.server.native.bodies import (
    ChatBody,
    DetokenizeBody,
    EmbeddingsBody,
    ForkBody,
    GenerateBody,
    LoadBody,
    PullBody,
    TitleBody,
    TokenizeBody,
    keep_alive_s,
    parse_chat,
    parse_generate,
)  # fmt: skip
from myllm.server.native.render import (
    json,
    render_chat,
    render_events,
    render_generate,
    render_model,
    render_pull,
    render_pull_event,
    render_status,
    render_stream_error,
    render_waiting,
    render_whole_model,
)  # fmt: skip
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
        return json({"models": [render_model(model, self.service) for model in installed]})

    async def get_model(self, request: Request) -> Response:
        return json(render_whole_model(await self.service.resolve(request.path_params["name"]), self.service))

    async def pull_model(self, request: Request) -> Response:
        body = await self._body(request, PullBody)
        if _wants_stream(request, body.stream):
            keepalive_s = self.service.settings.keepalive_comment_s
            return EventStream(lambda: self.service.pull(body.name), render_pull_event, render_stream_error, keepalive_s)
        return await while_connected(request.receive, self._pull_whole(body.name))

    async def delete_model(self, request: Request) -> Response:
        name = await self.service.remove_model(request.path_params["name"])
        return json({"status": "success", "message": f"Model '{name}' removed"})

    async def load_model(self, request: Request) -> Response:
        raw = await read_body(request, self._max_bytes)
        body = decode(raw, LoadBody) if raw.strip() else LoadBody()
        names = ("context_size", "gpu_layers", "parallel", "kv_cache_type")
        overrides = {name: value for name in names if (value := getattr(body, name)) is not None}
        work = self.service.manager.load(request.path_params["name"], overrides, keep_alive_s=keep_alive_s(body.keep_alive), pin=body.pin)
        name = await while_connected(request.receive, work)
        return json({"status": "success", "message": f"Model '{name}' loaded"})

    async def unload_model(self, request: Request) -> Response:
        name = await self.service.manager.unload(request.path_params["name"])
        return json({"status": "success", "message": f"Model '{name}' unloaded"})

    async def chat(self, request: Request) -> Response:
        body = await self._body(request, ChatBody)
        chat, caller = parse_chat(body, self.service.settings.max_messages), caller_of(request)
        if _wants_stream(request, body.stream):
            return self._stream(lambda: self.service.chat(chat, caller))
        return await while_connected(request.receive, self._chat_whole(chat, caller))

    async def generate(self, request: Request) -> Response:
        body = await self._body(request, GenerateBody)
        completion, caller = parse_generate(body), caller_of(request)
        if _wants_stream(request, body.stream):
            return self._stream(lambda: self.service.complete(completion, caller))
        return await while_connected(request.receive, self._generate_whole(completion, caller))

    async def embeddings(self, request: Request) -> Response:
        body = await self._body(request, EmbeddingsBody)
        inputs: list[str | list[int]] = [body.input] if isinstance(body.input, str) else [*body.input]
        embeddings = await while_connected(request.receive, self.service.embed(body.model, inputs, caller_of(request)))
        vectors = [vector.tolist() for vector in embeddings.vectors]
        usage = {"prompt_tokens": embeddings.num_tokens, "total_tokens": embeddings.num_tokens}
        shape = {"embedding": vectors[0]} if isinstance(body.input, str) else {"embeddings": vectors}
        return json({**shape, "model": embeddings.model, "usage": usage})

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request, TokenizeBody)
        work = self.service.tokenize(body.model, body.content, add_special=body.add_special, parse_special=body.parse_special)
        return json({"tokens": await while_connected(request.receive, work)})

    async def detokenize(self, request: Request) -> Response:
        body = await self._body(request, DetokenizeBody)
        return json({"content": await while_connected(request.receive, self.service.detokenize(body.model, body.tokens))})

    async def list_sessions(self, request: Request) -> Response:
        limit, offset = _number(request, "limit", 100, 1, 1000), _number(request, "offset", 0, 0, 2**53)
        return json({"sessions": await self.service.list_sessions(limit, offset, caller_of(request))})

    async def get_session(self, request: Request) -> Response:
        return json((await self.service.get_session(request.path_params["id"], caller_of(request))).to_dict())

    async def rename_session(self, request: Request) -> Response:
        body = await self._body(request, TitleBody)
        return json(await self.service.rename_session(request.path_params["id"], body.title, caller_of(request)))

    async def delete_session(self, request: Request) -> Response:
        await self.service.delete_session(request.path_params["id"], caller_of(request))
        return json({"status": "success", "message": f"Session '{request.path_params['id']}' deleted"})

    async def fork_session(self, request: Request) -> Response:
        raw = await read_body(request, self._max_bytes)
        body = decode(raw, ForkBody) if raw.strip() else ForkBody()
        return json(await self.service.fork_session(request.path_params["id"], body.at, caller_of(request)))

    async def status(self, request: Request) -> Response:
        memory = psutil.virtual_memory()
        return json(
            {
                "version": __version__,
                "uptime_s": round(time.monotonic() - self.started, 3),
                "memory": {"total": memory.total, "available": memory.available, "budget": self.service.settings.memory_budget},
                "models": self._model_lines(),
            }
        )

    def _model_lines(self) -> list[dict[str, Any]]:
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
        return json(render_chat(reply))

    async def _pull_whole(self, name: str) -> Response:
        async with self.service.pull(name) as task:
            return json(render_pull(await task.finish()))

    async def _generate_whole(self, completion: CompletionRequest, caller: Caller) -> Response:
        async with self.service.complete(completion, caller) as reply:
            await reply.finish()
        return json(render_generate(reply))


def _wants_stream(request: Request, stream: bool | None) -> bool:
    """The body decides; where it is silent, a client that accepts events gets them."""
    return "text/event-stream" in request.headers.get("accept", "") if stream is None else stream


def _number(request: Request, name: str, default: int, lowest: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or not lowest <= int(text) <= highest:
        raise InvalidRequest(f"'{name}' takes an integer from {lowest:,} to {highest:,}", param=name)
    return int(text)
