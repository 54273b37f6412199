"""`Readiness`: where the server is in its life, and `Drain`, which takes no new requests at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from myllm.errors import Draining
from myllm.server.error_forms import ErrorForms

ServerStatus = Literal["starting", "healthy", "draining"]
ANSWERED_TO_THE_END = ("/", "/health", "/metrics")


@dataclass
class Readiness:
    """`/health` tells it; a draining server takes no new requests."""

    status: ServerStatus = "starting"


class Drain:
    """While the server stops, what runs may finish and nothing new begins."""

    def __init__(self, app: ASGIApp, readiness: Readiness, render_error: ErrorForms) -> None:
        self.app = app
        self.readiness = readiness
        self.render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.readiness.status == "draining" and scope["path"] not in ANSWERED_TO_THE_END:
            error = Draining("the server is stopping; try again in a moment", retry_after_s=5)
            await self.render_error(scope, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)
