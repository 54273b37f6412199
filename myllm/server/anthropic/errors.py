"""The error form `{"type": "error", "error": {"type", "message"}, "request_id"}`, with Anthropic's word for each status.

The status stays the one of the error's class: 503 where Anthropic has 529. Every answer has its id in the header
`request-id`, where Anthropic's SDKs look for it; an error's is in the log as well.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any, Literal

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from myllm.errors import MyLLMError
from myllm.server.json_response import json_response
from myllm.server.streaming import ClientLeft

log = logging.getLogger("myllm.server")

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "overloaded_error",
    "api_error",
]
TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ErrorDetail(Struct):
    type: ErrorType
    message: str


class ErrorBody(Struct, tag_field="type", tag="error"):
    """What went wrong; an event of this form ends a stream that broke."""

    error: ErrorDetail
    request_id: str


def request_id_of(connection: HTTPConnection) -> str:
    """The request's id, drawn when it is first asked for."""
    request_id: str = connection.scope.setdefault("request_id", _new_id())
    return request_id


def error_body(error: MyLLMError, request_id: str) -> ErrorBody:
    return _body(error.status, error.message, request_id)


def render_error(error: MyLLMError) -> Response:
    """The answer to a request that was refused before it reached the dialect."""
    return _answer(error, _new_id())


def _body(status: int, message: str, request_id: str) -> ErrorBody:
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return ErrorBody(ErrorDetail(kind, message), request_id)


def _answer(error: MyLLMError, request_id: str) -> Response:
    log.info("%s: %d %s", request_id, error.status, error.message)
    headers = {"request-id": request_id}
    if error.retry_after_s:
        headers["retry-after"] = str(error.retry_after_s)
    return json_response(error_body(error, request_id), error.status, headers)


def _new_id() -> str:
    return f"req_{uuid.uuid4().hex}"


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MyLLMError)
    return _answer(error, request_id_of(request))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, request_id = request.scope["path"], request_id_of(request)
    messages = {404: f"no such path: {path}", 405: f"{request.method} is not allowed on {path}"}
    body = _body(error.status_code, messages.get(error.status_code, error.detail), request_id)
    return json_response(body, error.status_code, {**(error.headers or {}), "request-id": request_id})


async def _on_client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the access log does


async def _on_bug(request: Request, error: Exception) -> Response:
    return _answer(MyLLMError("internal error; the server's log has the details"), request_id_of(request))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    MyLLMError: _on_error,
    HTTPException: _on_http,
    ClientLeft: _on_client_left,
    Exception: _on_bug,
}
