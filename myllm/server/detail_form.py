"""The error form `{"detail": "…"}`: of the native dialect, of the gateway, and of the paths that belong to no dialect."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from starlette.responses import Response

from myllm.errors import MyLLMError
from myllm.server.error_forms import exception_handlers
from myllm.server.json_response import json_response
from myllm.server.streaming import encode_event


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


EXCEPTION_HANDLERS = exception_handlers(lambda request, error: render_error(error))
