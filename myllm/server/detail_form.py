"""The error form `{"detail": "…"}`: of the native dialect, of the gateway, and of the paths that belong to no dialect."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from myllm.errors import MyLLMError
from myllm.server.json_response import json_response
from myllm.server.streaming import ClientLeft, encode_event


class DetailError(Struct):
    """What went wrong, with which numbers, and what to do about it."""

    detail: str


class StreamError(Struct):
    """The last event of a stream that broke."""

    error: str
    done: Literal[True]


def render_error(error: MyLLMError) -> Response:
    """The body has no place for the error's code, which programs tell errors apart by: it is a header."""
    headers = {"x-error-code": error.code} | ({"retry-after": str(error.retry_after_s)} if error.retry_after_s else {})
    return json_response(DetailError(error.message), error.status, headers)


def render_stream_error(error: MyLLMError) -> bytes:
    """What ends a stream that broke."""
    return encode_event(StreamError(error.message, True))


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MyLLMError)
    return render_error(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    details = {404: f"no such path: {path}", 405: f"{request.method} is not allowed on {path}"}
    return json_response(DetailError(details.get(error.status_code, error.detail)), error.status_code, error.headers)


async def _on_client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the access log does


async def _on_bug(request: Request, error: Exception) -> Response:
    return json_response(DetailError("internal error; the server's log has the details"), 500)


EXCEPTION_HANDLERS: dict[Any, Any] = {
    MyLLMError: _on_error,
    HTTPException: _on_http,
    ClientLeft: _on_client_left,
    Exception: _on_bug,
}
