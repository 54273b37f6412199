"""What the API says of itself: `/openapi.json`, and `/docs`, the same as a page.

`chapters` names the dialects, `schemas` their types, `openapi` makes the document of both, and `page` shows it. Both are made
when somebody first asks, of the types that the server validates with, so they cannot tell of another API than this one.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from myllm import __version__
from myllm.config import Settings
from myllm.server.pages import Page
from myllm.server.reference.chapters import chapters
from myllm.server.reference.openapi import document
from myllm.server.reference.page import render_page

__all__ = ["Reference"]


class Reference:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def routes(self) -> list[Route]:
        return [Route("/openapi.json", self.openapi), Route("/docs", self.docs)]

    async def openapi(self, request: Request) -> Response:
        return Response(self._encoded, media_type="application/json")

    async def docs(self, request: Request) -> Response:
        return self._page.response()

    @cached_property
    def _encoded(self) -> bytes:
        return msgspec.json.encode(document(chapters(self.settings), __version__))

    @cached_property
    def _page(self) -> Page:
        return render_page(msgspec.json.decode(self._encoded))
