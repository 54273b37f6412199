"""Bodies as Ollama reads them: JSON whatever the Content-Type, and its own words for one that is not there."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request

from myllm.errors import InvalidRequest
from myllm.server.bodies import decode, read_body
from myllm.service import Service

T = TypeVar("T")


async def read(request: Request, service: Service, kind: type[T]) -> T:
    """Raises InvalidRequest that names the field, BodyTooLarge."""
    body = await read_body(request, service.settings.max_body_bytes)
    if not body.strip():
        raise InvalidRequest("missing request body")
    return decode(body, kind)
