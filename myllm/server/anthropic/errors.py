"""The error form `{"type": "error", "error": {"type", "message"}, "request_id"}`, with Anthropic's word for each status.

The status stays the one of the error's class: 503 where Anthropic has 529. Every answer has its id in the header
`request-id`, where Anthropic's SDKs look for it; an error's is in the log as well.
"""

from __future__ import annotations

import logging
import uuid
from typing import Literal

from msgspec import Struct
from starlette.requests import HTTPConnection
from starlette.responses import Response

from myllm.errors import MyLLMError
from myllm.server.error_forms import exception_handlers
from myllm.server.json_response import json_response

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
    kind = TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return ErrorBody(ErrorDetail(kind, error.message), request_id)


def render_error(error: MyLLMError) -> Response:
    """The answer to a request that was refused before it reached the dialect."""
    return _answer(error, _new_id())


def _answer(error: MyLLMError, request_id: str) -> Response:
    log.info("%s: %d %s", request_id, error.status, error.message)
    headers = {"request-id": request_id}
    if error.retry_after_s:
        headers["retry-after"] = str(error.retry_after_s)
    return json_response(error_body(error, request_id), error.status, headers)


def _new_id() -> str:
    return f"req_{uuid.uuid4().hex}"


EXCEPTION_HANDLERS = exception_handlers(lambda request, error: _answer(error, request_id_of(request)))
