"""The Anthropic dialect's endpoints: each parses, calls the service and renders."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from myllm.caller import Caller
from myllm.server.anthropic.bodies import CountBody, MessagesBody, parse_count, parse_messages
from myllm.server.anthropic.errors import request_id_of
from myllm.server.anthropic.render import PING, MessageBody, MessageStream, TokenCount, render_message
from myllm.server.bodies import decode, read_body
from myllm.server.callers import caller_of, note_user
from myllm.server.json_response import json_response
from myllm.server.streaming import EventStream, while_connected
from myllm.service import Service
from myllm.types import ChatRequest


class AnthropicAPI:
    """The endpoints; each parses, calls the service and renders."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._max_bytes = service.settings.max_body_bytes
        self._max_messages = service.settings.max_messages

    async def messages(self, request: Request) -> Response:
        body = decode(await read_body(request, self._max_bytes), MessagesBody)
        chat, caller = parse_messages(body, self._max_messages), caller_of(request)
        if body.metadata is not None:
            note_user(request_id_of(request), body.metadata.user_id, request)
        if body.stream:
            return self._stream(request, chat, caller, MessageStream(body.max_tokens, request_id_of(request)))
        message = await while_connected(request.receive, self._whole(chat, caller, body.max_tokens))
        return json_response(message, headers={"request-id": request_id_of(request)})

    async def count_tokens(self, request: Request) -> Response:
        body = decode(await read_body(request, self._max_bytes), CountBody)
        work = self.service.count_tokens(parse_count(body, self._max_messages))
        count = TokenCount(await while_connected(request.receive, work))
        return json_response(count, headers={"request-id": request_id_of(request)})

    def _stream(self, request: Request, chat: ChatRequest, caller: Caller, stream: MessageStream) -> Response:
        return EventStream(
            lambda: self.service.chat(chat, caller),
            stream.render,
            stream.render_error,
            self.service.settings.keepalive_comment_s,
            begin=stream.begin,
            keepalive=PING,
            headers={"request-id": request_id_of(request)},
        )

    async def _whole(self, chat: ChatRequest, caller: Caller, max_tokens: int) -> MessageBody:
        async with self.service.chat(chat, caller) as reply:
            await reply.finish()
        return render_message(reply, max_tokens)
