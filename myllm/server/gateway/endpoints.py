"""The gateway's endpoints: each parses, calls the service and renders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response

from myllm.caller import Caller
from myllm.chat.thoughts import ThoughtSplitter
from myllm.server.bodies import decode, read_body
from myllm.server.callers import caller_of
from myllm.server.detail_form import render_stream_error
from myllm.server.gateway.bodies import ChatBody, ModelList, parse_chat
from myllm.server.gateway.render import Told, render_chat
from myllm.server.json_response import json_response
from myllm.server.streaming import EventStream, while_connected
from myllm.server.tags import tags_of
from myllm.service import Service
from myllm.types import ChatRequest


class GatewayAPI:
    """One message in, one response out."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def list_models(self, request: Request) -> Response:
        return json_response(ModelList(tags_of(await self.service.list_models())))

    async def chat(self, request: Request) -> Response:
        """The path's model goes before the body's."""
        settings = self.service.settings
        body = decode(await read_body(request, settings.max_body_bytes), ChatBody)
        name = request.path_params.get("model") or (await self.service.default_model() if body.model is None else body.model)
        installed = await self.service.resolve(name)
        can_think = "thinking" in installed.capabilities
        chat, caller = parse_chat(body, name, can_think=can_think), caller_of(request)
        if body.stream:
            return EventStream(lambda: self._told(chat, caller, can_think), _sent, render_stream_error, settings.keepalive_comment_s)
        return await while_connected(request.receive, self._whole(chat, caller, can_think))

    @asynccontextmanager
    async def _told(self, chat: ChatRequest, caller: Caller, can_think: bool) -> AsyncIterator[Told]:
        async with self.service.chat(chat, caller) as reply:
            yield Told(reply, ThoughtSplitter(is_open=reply.rendered.opens_thought) if can_think else None)

    async def _whole(self, chat: ChatRequest, caller: Caller, can_think: bool) -> Response:
        async with self.service.chat(chat, caller) as reply:
            await reply.finish()
        return json_response(render_chat(reply, can_think=can_think))


def _sent(told: Told, rendered: bytes) -> bytes:
    return rendered
