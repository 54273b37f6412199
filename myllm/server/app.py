"""The application: what stands before every dialect (guards, access log, readiness) and which dialect owns which path.

A request passes the access log, then the guard against pages of other sites, then its dialect. The dialects are
applications of their own with their own error forms; what is refused before it reaches one has the form of the dialect
that owns the path. The two routes that belong to none, `/` and `/health`, are here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from myllm import __version__
from myllm.errors import Draining, MyLLMError
from myllm.server import native
from myllm.server.error_forms import ErrorForms, RenderError
from myllm.server.guard import Guard, allowed_origins
from myllm.server.native.render import json
from myllm.service import Service

log = logging.getLogger("myllm.access")


@dataclass
class Readiness:
    """Where the server is in its life; `/health` tells it, and a draining one takes no new requests."""

    status: Literal["starting", "healthy", "draining"] = "starting"
    loading: set[str] = field(default_factory=set)


class Dialect(NamedTuple):
    """Whose paths begin with `prefix`."""

    prefix: str
    app: ASGIApp
    render_error: RenderError


def dialects(service: Service) -> list[Dialect]:
    """In the order in which they are asked: a longer prefix before the shorter one that it begins with."""
    return [Dialect("/api", native.app(service), native.render_error)]


def create_app(service: Service, readiness: Readiness) -> Starlette:
    """The main port's application. Models of the setting `models` load after the start, in the background."""

    async def root(request: Request) -> Response:
        installed = await service.list_models()
        return json({"name": "MyLLM", "version": __version__, "status": "running", "models_available": len(installed)})

    async def health(request: Request) -> Response:
        return json({"status": readiness.status}, 200 if readiness.status == "healthy" else 503)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load_at_start(service, readiness))
        try:
            yield
        finally:
            loading.cancel()
            await service.close()

    origins = allowed_origins(service.settings)
    mounted = dialects(service)
    render_error = ErrorForms({dialect.prefix: dialect.render_error for dialect in mounted}, native.render_error)
    return Starlette(
        routes=[Route("/", root), Route("/health", health), *(Mount(dialect.prefix, app=dialect.app) for dialect in mounted)],
        middleware=[
            Middleware(AccessLog),
            Middleware(Guard, settings=service.settings, origins=origins, render_error=render_error),
            Middleware(Drain, readiness=readiness, render_error=render_error),
            Middleware(CORSMiddleware, allow_origin_regex=origins.pattern, allow_methods=["*"], allow_headers=["*"]),
        ],
        exception_handlers=native.EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )


async def _load_at_start(service: Service, readiness: Readiness) -> None:
    """Load the models that the settings name, side by side; one that fails is logged and keeps nobody waiting."""

    async def load(name: str) -> None:
        try:
            await service.manager.load(name, {})
        except MyLLMError as error:
            log.error("model '%s' was not loaded at start: %s", name, error.message)
        except Exception:  # a bug must not keep the server "starting" for ever
            log.exception("model '%s' was not loaded at start", name)

    await asyncio.gather(*(load(name) for name in service.settings.models))
    if readiness.status == "starting":
        readiness.status = "healthy"


class Drain:
    """While the server stops, what runs may finish and nothing new begins."""

    def __init__(self, app: ASGIApp, readiness: Readiness, render_error: ErrorForms) -> None:
        self.app = app
        self.readiness = readiness
        self.render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.readiness.status == "draining" and scope["path"] not in ("/", "/health"):
            error = Draining("the server is stopping; try again in a moment", retry_after_s=5)
            await self.render_error(scope, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class AccessLog:
    """One line a request, when it has ended: method, path, status, milliseconds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            log.info("%s %s %s %.0f ms", scope["method"], scope["path"], status or "left", (time.monotonic() - started) * 1000)
