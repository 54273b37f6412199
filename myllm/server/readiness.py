"""`Readiness`: where the server is in its life, and `Drain`, which takes no new requests at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from myllm.errors import Draining
from myllm.server.error_forms import ErrorForms

ServerStatus = Literal["starting", "healthy", "draining"]
ANSWERED_TO_THE_END = ("/", "/health", "/metrics")


@dataclass
class Readiness:
    """`/health` tells it; a draining server takes no new requests. num_answers: those that run on WebSockets now."""

    status: ServerStatus = "starting"
    num_answers: int = 0


@contextmanager
def answering(connection: HTTPConnection) -> Iterator[None]:
    """One answer of a WebSocket: the server waits for it when it stops. Raises Draining where it is stopping already."""
    readiness: Readiness = connection.scope["readiness"]
    if readiness.status == "draining":
        raise _draining()
    readiness.num_answers += 1
    try:
        yield
    finally:
        readiness.num_answers -= 1


class Drain:
    """While the server stops, what runs may finish and nothing new begins; of a WebSocket, its answers are what runs."""

    def __init__(self, app: ASGIApp, readiness: Readiness, render_error: ErrorForms) -> None:
        self.app = app
        self.readiness = readiness
        self.render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["readiness"] = self.readiness
        if scope["type"] == "http" and self.readiness.status == "draining" and scope["path"] not in ANSWERED_TO_THE_END:
            await self.render_error(scope, _draining())(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _draining() -> Draining:
    return Draining("the server is stopping; try again in a moment", retry_after_s=5)
