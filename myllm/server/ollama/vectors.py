"""The endpoints that embed texts: `embed`, and `embeddings` as it was before."""

from __future__ import annotations

import time

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from myllm.errors import InvalidRequest
from myllm.server.callers import caller_of, check_keep_alive
from myllm.server.ollama.answers import EmbedAnswer, EmbeddingAnswer, json_answer
from myllm.server.ollama.bodies import EmbedBody, EmbeddingsBody
from myllm.server.ollama.errors import NOT_FOUND, NOT_FOUND_TO_EMBED, told_of
from myllm.server.ollama.loading import engine_wishes
from myllm.server.ollama.options import read_options
from myllm.server.ollama.reading import read
from myllm.server.ollama.running import nanoseconds
from myllm.server.ranges import keep_alive_s
from myllm.server.streaming import while_connected
from myllm.service import Embeddings, Service


class Vectors:
    """Texts in, vectors out. A request without a text loads the model."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def embed(self, request: Request) -> Response:
        started = time.monotonic()
        body = await read(request, self.service, EmbedBody)
        embeddings = await self._embed(request, body)
        if embeddings is None:
            return json_answer(EmbedAnswer(model=body.model or "", embeddings=[]))
        answer = EmbedAnswer(
            model=body.model or "",
            embeddings=[vector.tolist() for vector in embeddings.vectors],
            total_duration=nanoseconds(time.monotonic() - started),
            load_duration=nanoseconds(embeddings.load_s),
            prompt_eval_count=embeddings.num_tokens,
        )
        return json_answer(answer)

    async def embeddings(self, request: Request) -> Response:
        body = await read(request, self.service, EmbeddingsBody)
        if not body.model:
            raise InvalidRequest("model is required", param="model")
        same = EmbedBody(body.model, body.prompt, truncate=False, options=body.options, keep_alive=body.keep_alive)
        embeddings = await self._embed(request, same)
        return json_answer(EmbeddingAnswer(embeddings.vectors[0].tolist() if embeddings else []))

    async def _embed(self, request: Request, body: EmbedBody) -> Embeddings | None:
        """None where there was nothing to embed."""
        inputs, manager, stay_s = body.inputs, self.service.manager, keep_alive_s(body.keep_alive)
        with told_of(body.model or "", NOT_FOUND_TO_EMBED if body.model else NOT_FOUND):
            installed = await self.service.resolve(body.model or "")
        check_keep_alive(request, stay_s)
        options = read_options(body.options)
        of_load = replace(options, context_size=None)  # texts are embedded in a context of their own, as large as they need
        wishes = engine_wishes(request, manager, installed, of_load)
        if not inputs:
            await while_connected(request.receive, manager.load(installed.name, wishes, keep_alive_s=stay_s))
            return None
        work = self.service.embed(
            installed.name,
            inputs,
            caller_of(request),
            dimensions=body.num_dimensions,
            context_size=options.context_size,
            may_cut=body.truncate is not False,
            keep_alive_s=stay_s,
            engine=wishes,
        )
        return await while_connected(request.receive, work)
