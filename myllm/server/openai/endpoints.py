"""The endpoints of this dialect: each reads its body, runs a job or asks the service, and renders."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from myllm.errors import InvalidRequest
from myllm.server.bodies import read_body
from myllm.server.callers import caller_of, check_keep_alive, note_user
from myllm.server.json_response import json_response
from myllm.server.openai.answers import EmbeddingsAnswer, ModelList
from myllm.server.openai.bodies import EmbeddingsBody, parse_inputs
from myllm.server.openai.errors import ErrorForm
from myllm.server.openai.job import Job
from myllm.server.openai.render import render_embeddings, render_model, render_whole_model
from myllm.server.openai.requests import Requests
from myllm.server.openai.service_models import ServiceModels
from myllm.server.ranges import keep_alive_s
from myllm.server.streaming import EventStream, while_connected
from myllm.service import Service


class OpenAIAPI:
    """form: how errors are told. offered: the models of the service whose prefix this is; None is all."""

    def __init__(self, service: Service, form: ErrorForm, offered: ServiceModels | None = None) -> None:
        self.service = service
        self.form = form
        self.offered = offered
        self.requests = Requests(service, offered)
        self._owner = "vllm" if offered else "myllm"

    async def list_models(self, request: Request) -> Response:
        installed = await (self.offered.list(self.service) if self.offered else self.service.list_models())
        return json_response(ModelList(data=[render_model(model, self._owner) for model in installed]))

    async def get_model(self, request: Request) -> Response:
        name = request.path_params["id"]
        installed = await (self.offered.resolve(self.service, name) if self.offered else self.service.resolve(name))
        return json_response(render_whole_model(installed, self._owner))

    async def chat_completions(self, request: Request) -> Response:
        job, streams = await self.requests.chat(await self.read(request), request)
        return await self._answer(request, job, streams)

    async def completions(self, request: Request) -> Response:
        job, streams = await self.requests.completion(await self.read(request), request)
        return await self._answer(request, job, streams)

    async def embeddings(self, request: Request) -> Response:
        body = self.requests.decode_embeddings(await self.read(request))
        return json_response(await while_connected(request.receive, self._embed(body, request)))

    async def read(self, request: Request) -> bytes:
        return await read_body(request, self.service.settings.max_body_bytes)

    async def _answer(self, request: Request, job: Job, streams: bool) -> Response:
        if streams:
            return EventStream(job.open, job.chunks.as_events, self.form.event, self.service.settings.keepalive_comment_s)
        return json_response(await while_connected(request.receive, job.finish()))

    async def _embed(self, body: EmbeddingsBody, request: Request) -> EmbeddingsAnswer:
        stay = keep_alive_s(body.keep_alive)
        check_keep_alive(request, stay)
        note_user("an embedding", body.user, request)
        inputs = [each if isinstance(each, str) else list(each) for each in parse_inputs(body.input, "input")]
        if self.offered is not None:
            model = body.model or await self.offered.default_model(self.service)
            installed = await self.offered.resolve(self.service, model)
            if "completion" in installed.metadata.capabilities:
                raise InvalidRequest("The model does not support Embeddings API", param="model")
        else:
            model = body.model or await self.service.default_model()
        embeddings = await self.service.embed(model, inputs, caller_of(request), dimensions=body.dimensions, keep_alive_s=stay)
        return render_embeddings(embeddings, in_base64=body.encoding_format == "base64")
