"""`POST /v1/rerank`, which OpenAI does not have: its clients are those of Jina and Cohere."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from myllm.server.bodies import decode, read_body
from myllm.server.callers import caller_of
from myllm.server.json_response import json_response
from myllm.server.openai.requests import Requests
from myllm.server.ranking import RerankBody, render_ranking
from myllm.server.streaming import while_connected
from myllm.service import Service


class RerankAPI:
    """requests: what this prefix offers, and how bodies come there."""

    def __init__(self, service: Service, requests: Requests) -> None:
        self.service = service
        self.requests = requests

    def routes(self) -> list[Route]:
        return [Route("/rerank", self.rerank, methods=["POST"])]

    async def rerank(self, request: Request) -> Response:
        raw = await read_body(request, self.service.settings.max_body_bytes)
        body = decode(self.requests.unwrapped(raw), RerankBody)
        await self.requests.check_model(body.model)
        texts = body.texts
        ranking = await while_connected(request.receive, self.service.rank(body.model, body.query, texts, caller_of(request)))
        return json_response(render_ranking(ranking, body, texts))
