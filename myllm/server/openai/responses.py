"""The endpoints of `/v1/responses`: each reads its body, runs a response or asks for a stored one, and renders."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from myllm.errors import InvalidRequest, NotFound
from myllm.server.bodies import decode, decode_query, read_body
from myllm.server.callers import caller_of, check_keep_alive, note_user
from myllm.server.json_response import json_response
from myllm.server.openai.requests import Requests
from myllm.server.openai.responses_answers import DeletedResponse, InputItems, InputMessage, InputText, OutputText
from myllm.server.openai.responses_bodies import ItemsQuery, ResponseQuery, ResponsesBody
from myllm.server.openai.responses_run import ResponseRun
from myllm.server.streaming import EventStream, while_connected
from myllm.service import Service
from myllm.sessions import StoredResponse


class ResponsesAPI:
    """requests: what this prefix offers, and how bodies come there."""

    def __init__(self, service: Service, requests: Requests) -> None:
        self.service = service
        self.requests = requests

    def routes(self) -> list[Route]:
        return [
            Route("/responses", self.create, methods=["POST"]),
            Route("/responses/{id}", self.get),
            Route("/responses/{id}", self.delete, methods=["DELETE"]),
            Route("/responses/{id}/input_items", self.list_input_items),
        ]

    async def create(self, request: Request) -> Response:
        raw = await read_body(request, self.service.settings.max_body_bytes)
        run = await while_connected(request.receive, self._run(raw, request))
        if not run.body.stream:
            return json_response(await while_connected(request.receive, run.finish()))
        return EventStream(run.open, run.render, run.render_error, self.service.settings.keepalive_comment_s, begin=run.begin)

    async def get(self, request: Request) -> Response:
        if decode_query(request.query_params, ResponseQuery).stream:
            raise InvalidRequest("'stream' is not supported here: a stored response has ended; leave it out", param="stream")
        stored = await self._stored(request)
        return Response(stored.body, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        await self.service.delete_response(request.path_params["id"], caller_of(request))
        return json_response(DeletedResponse(request.path_params["id"]))

    async def list_input_items(self, request: Request) -> Response:
        query = decode_query(request.query_params, ItemsQuery)
        return json_response(page_of(input_items(await self._stored(request)), query))

    async def _run(self, raw: bytes, request: Request) -> ResponseRun:
        body, caller = decode(self.requests.unwrapped(raw), ResponsesBody), caller_of(request)
        await self.requests.check_model(body.model)
        previous = None
        if body.previous_response_id is not None:
            try:
                previous = await self.service.get_response(body.previous_response_id, caller)
            except NotFound as error:
                error.param = "previous_response_id"
                raise
        run = ResponseRun(self.service, caller, body, previous)
        check_keep_alive(request, run.chat.keep_alive_s)
        note_user(run.id, body.user, request)
        return run

    async def _stored(self, request: Request) -> StoredResponse:
        return await self.service.get_response(request.path_params["id"], caller_of(request))


def input_items(stored: StoredResponse) -> list[InputMessage]:
    """The conversation that the response answered, oldest first; its instructions were no part of that."""
    return [
        InputMessage(
            f"{stored.id.replace('resp_', 'msg_')}_{at}",
            message.role,
            [OutputText(message.content) if message.role == "assistant" else InputText(message.content)],
        )
        for at, message in enumerate(stored.messages[:-1])
    ]


def page_of(items: list[InputMessage], query: ItemsQuery) -> InputItems:
    """items: all of them, oldest first. Raises InvalidRequest for a page after an item that there is not."""
    if query.order == "desc":
        items = items[::-1]
    if query.after is not None:
        place = next((at for at, item in enumerate(items) if item.id == query.after), None)
        if place is None:
            raise InvalidRequest("'after' is the id of none of this response's input items", param="after")
        items = items[place + 1 :]
    page = items[: query.limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return InputItems(data=page, first_id=first, last_id=last, has_more=len(items) > query.limit)
