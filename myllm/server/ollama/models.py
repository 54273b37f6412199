"""The endpoints about models: what is here and what it is, fetching, making, copying and removing it, and the files it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from myllm.errors import InvalidRequest, ModelNotFound, NotFound, Unauthorized
from myllm.model_builder import ModelBuilder
from myllm.server.callers import require_admin
from myllm.server.ollama.answers import CloudState, CloudStatus, VersionAnswer, json_answer
from myllm.server.ollama.bodies import CopyBody, CreateBody, NamedBody, ShowBody, TransferBody
from myllm.server.ollama.errors import NOT_FOUND_TO_COPY, told_of
from myllm.server.ollama.listing import running_list, tag_list
from myllm.server.ollama.making import SUCCESS, PullLines, Steps, new_model, opened, render_broken, render_step, told_of_pull
from myllm.server.ollama.names import is_valid, quoted
from myllm.server.ollama.reading import read
from myllm.server.ollama.show import show_answer
from myllm.server.streaming import LINES, EventStream, while_connected
from myllm.service import Service
from myllm.store.create import NewModel
from myllm.store.gguf_header import read_header
from myllm.store.pull_task import PullTask

OLLAMA_VERSION = "0.33.0"  # whose API this is; clients compare it with what they need
COPILOT = "GitHubCopilotChat/"


class Models:
    """What is installed, and how it comes and goes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.builder = ModelBuilder(service.store, service.manager.forget)

    async def root(self, request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request) -> Response:
        return json_answer(VersionAnswer(OLLAMA_VERSION))

    async def status(self, request: Request) -> Response:
        return json_answer(CloudStatus(CloudState(disabled=True, source="config")))

    async def account(self, request: Request) -> Response:
        """Nobody is signed in: there are no accounts."""
        raise Unauthorized("unauthorized")

    async def tags(self, request: Request) -> Response:
        return json_answer(tag_list(await self.service.list_models()))

    async def ps(self, request: Request) -> Response:
        return json_answer(running_list(self.service.manager.loaded()))

    async def show(self, request: Request) -> Response:
        body = await read(request, self.service, ShowBody)
        if not body.asked:
            raise InvalidRequest("model is required", param="model")
        with told_of(body.asked):
            installed = await self.service.resolve(body.asked)
        verbose = bool(body.verbose)
        header = await asyncio.to_thread(read_header, installed.path, whole=verbose)
        template = await asyncio.to_thread(self.service.prompter.templates.source, installed)
        answer = show_answer(installed, header, template, system=body.system, options=body.options or {}, verbose=verbose)
        if request.headers.get("user-agent", "").startswith(COPILOT):
            answer.model_info["general.basename"] = body.asked  # it shows this instead of the name
        return json_answer(answer)

    async def pull(self, request: Request) -> Response:
        require_admin(request, "pull models")
        body = await read(request, self.service, TransferBody)
        _check_transfer(body)
        if not body.asked:
            raise InvalidRequest("invalid model name", param="model")
        if body.stream is False:
            return await while_connected(request.receive, self._pull_whole(body.asked))
        lines, keepalive_s = PullLines(), self.service.settings.keepalive_comment_s
        return EventStream(lambda: self._pulling(body.asked), lines.render, render_broken, keepalive_s, begin=lines.begin, media_type=LINES)

    async def push(self, request: Request) -> Response:
        require_admin(request, "push models")
        body = await read(request, self.service, TransferBody)
        _check_transfer(body)
        if not body.asked:
            raise InvalidRequest("model is required", param="model")
        with told_of(body.asked):
            await self.service.resolve(body.asked)
        raise InvalidRequest("models are not pushed from here: there is no registry to push to; upload the file to the Hub", param="model")

    async def create(self, request: Request) -> Response:
        require_admin(request, "create models")
        body = await read(request, self.service, CreateBody)
        new = new_model(body, self.service.settings.max_messages)
        if body.stream is False:
            return await while_connected(request.receive, self._create_whole(new))
        keepalive_s = self.service.settings.keepalive_comment_s
        return EventStream(lambda: self._creating(new), render_step, render_broken, keepalive_s, media_type=LINES)

    async def copy(self, request: Request) -> Response:
        require_admin(request, "copy models")
        body = await read(request, self.service, CopyBody)
        source, destination = body.source or "", body.destination or ""
        for field, name in (("source", source), ("destination", destination)):
            if not is_valid(name):
                raise InvalidRequest(f"{field} {quoted(name[:200])} is invalid", param=field)
        with told_of(source, NOT_FOUND_TO_COPY):
            await self.builder.copy(source, destination)
        return Response()

    async def delete(self, request: Request) -> Response:
        require_admin(request, "remove models")
        body = await read(request, self.service, NamedBody)
        if not is_valid(body.asked):
            raise InvalidRequest(f"name {quoted(body.asked[:200])} is invalid", param="model")
        with told_of(body.asked):
            await self.service.remove_model(body.asked)
        return Response()

    async def has_blob(self, request: Request) -> Response:
        require_admin(request, "ask for files")
        digest = request.path_params["digest"]
        if not await asyncio.to_thread(self.service.store.blobs.has, digest):
            raise NotFound(f"blob {quoted(digest)} not found")
        return Response()

    async def upload_blob(self, request: Request) -> Response:
        """201 for a new one; 200 for one that is here, once all of it was read: clients do not look before they have sent it."""
        require_admin(request, "upload files")
        digest = request.path_params["digest"]
        if await asyncio.to_thread(self.service.store.blobs.has, digest):
            async for _ in request.stream():
                pass
            return Response()
        declared = request.headers.get("content-length", "")
        await self.builder.upload(digest, request.stream(), int(declared) if declared.isdecimal() else None)
        return Response(status_code=201)

    @asynccontextmanager
    async def _pulling(self, name: str) -> AsyncIterator[PullTask]:
        try:
            async with self.service.pull(name) as task:
                yield task
        except ModelNotFound as error:
            raise told_of_pull(error) from error

    async def _pull_whole(self, name: str) -> Response:
        async with self._pulling(name) as task:
            await task.finish()
        return json_answer(SUCCESS)

    @asynccontextmanager
    async def _creating(self, new: NewModel) -> AsyncIterator[Steps]:
        with told_of(new.source or ""):
            async with opened(self.builder.create(new)) as steps:
                yield steps

    async def _create_whole(self, new: NewModel) -> Response:
        async with self._creating(new) as steps:
            last = [step async for step in steps][-1]
        return json_answer(last)


def _check_transfer(body: TransferBody) -> None:
    """Raises InvalidRequest for what would be ignored."""
    for field in ("insecure", "username", "password"):
        if getattr(body, field):
            raise InvalidRequest(f"'{field}' is not supported; leave it out", param=field)
