"""The application: what stands before every dialect (guards, access log, readiness) and which dialect owns which path.

A request passes the access log, then the guard against pages of other sites, then the keys, then its dialect. The dialects are
applications of their own with their own error forms; what is refused before it reaches one has the form of the dialect
that owns the path. The routes that belong to none are `front`'s, `metrics`' and `reference`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from myllm.errors import MyLLMError
from myllm.keys import Keyring
from myllm.server import anthropic, gateway, native, ollama, openai
from myllm.server.auth import Keys
from myllm.server.detail_form import EXCEPTION_HANDLERS, render_error as render_error_as_detail
from myllm.server.error_forms import ErrorForms, RenderError
from myllm.server.front import Front
from myllm.server.guard import Guard, allowed_origins
from myllm.server.listeners import Listeners, PrefixRoots
from myllm.server.metrics import CountRequests, Metrics
from myllm.server.readiness import Drain, Readiness
from myllm.server.reference import Reference
from myllm.service import Service

log = logging.getLogger("myllm.access")


class Dialect(NamedTuple):
    """Whose paths begin with `prefix`; where one of them is the prefix itself, its application is given whole paths."""

    prefix: str
    app: ASGIApp
    render_error: RenderError
    owns_prefix: bool = False

    @property
    def routes(self) -> list[BaseRoute]:
        below = Route(self.prefix + "/{rest:path}", self.app) if self.owns_prefix else Mount(self.prefix, app=self.app)
        below.path_regex = re.compile(below.path_regex.pattern, re.DOTALL)  # a line break in a path is the dialect's to refuse
        return [Route(self.prefix, self.app), below] if self.owns_prefix else [below]


def dialects(service: Service) -> list[Dialect]:
    """In the order in which they are asked: a longer prefix before the shorter one that it begins with."""
    return [
        *(Dialect(each.prefix, openai.app(service, each), openai.render_service_error) for each in openai.services(service.settings)),
        Dialect(anthropic.PREFIX, anthropic.app(service), anthropic.render_error, owns_prefix=True),
        Dialect("/v1", openai.app(service), openai.render_error),
        Dialect("/ollama/v1", openai.app(service), openai.render_error),
        Dialect(ollama.PREFIX, ollama.app(service), ollama.render_error),
        Dialect("/api", native.app(service), native.render_error),
    ]


def create_app(service: Service, readiness: Readiness, keyring: Keyring) -> Starlette:
    """The main port's application. Models of the setting `models` load after the start, in the background."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load_at_start(service, readiness))
        try:
            yield
        finally:
            loading.cancel()
            await service.close()

    origins = allowed_origins(service.settings)
    mounted, metrics = dialects(service), Metrics(service)
    render_error = ErrorForms({dialect.prefix: dialect.render_error for dialect in mounted}, render_error_as_detail)

    app = Starlette(
        routes=[
            *Front(service, readiness).routes(),
            *metrics.routes(),
            *Reference(service.settings).routes(),
            *(route for dialect in mounted for route in dialect.routes),
            *gateway.routes(service),  # after the mounts: a service may own paths below /chat
        ],
        middleware=[
            Middleware(AccessLog),
            Middleware(Listeners, prefixes={service.settings.ollama_port: "/ollama"} if service.settings.ollama_port else {}),
            Middleware(PrefixRoots, prefixes=[dialect.prefix for dialect in mounted if not dialect.owns_prefix]),
            Middleware(CountRequests, metrics=metrics),
            # before whoever refuses, so that a page can read why it was refused
            Middleware(
                CORSMiddleware,
                allow_origin_regex=origins.pattern,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"],
            ),
            Middleware(Guard, settings=service.settings, origins=origins, render_error=render_error),
            Middleware(Keys, keyring=keyring, render_error=render_error),
            Middleware(Drain, readiness=readiness, render_error=render_error),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


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


class AccessLog:
    """One line a request, when it has ended: method, path, status, milliseconds. Of a WebSocket, where it was refused."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        started, status, is_accepted = time.monotonic(), 0, False

        async def note_status(message: Message) -> None:
            nonlocal status, is_accepted
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                is_accepted = True
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            if not is_accepted:  # an accepted socket tells each of its requests itself
                method, path = scope.get("method", "WEBSOCKET"), scope["path"]
                log.info("%s %s %s %.0f ms", method, path, status or "left", (time.monotonic() - started) * 1000)
