"""OpenAI's error form, `{"error": {"message", "type", "param", "code"}}`, for every class of `myllm.errors`.

`type` is one of a few words that clients choose by, `code` says more exactly what it was. The service prefixes write a 400
as vLLM does; all else is the same there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from myllm.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    MyLLMError,
    NotFound,
    QuotaExceeded,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from myllm.server.error_forms import exception_handlers
from myllm.server.json_response import json_response

# The nearest class of an error's own line decides; what has none of these is the server's fault.
TYPES: dict[type[MyLLMError], str] = {
    InvalidRequest: "invalid_request_error",
    Unauthorized: "authentication_error",
    Forbidden: "permission_error",
    RateLimited: "rate_limit_exceeded",
    QuotaExceeded: "insufficient_quota",
    NotFound: "invalid_request_error",
    MethodNotAllowed: "invalid_request_error",
    Conflict: "invalid_request_error",
    Unavailable: "service_unavailable",
    MyLLMError: "server_error",
}


class ErrorBody(Struct):
    """What went wrong, with which numbers, and what to do about it; `param` is the field that it was about."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class ErrorAnswer(Struct):
    error: ErrorBody


DescribeError = Callable[[MyLLMError], ErrorAnswer]


def describe(error: MyLLMError) -> ErrorAnswer:
    """The form of `/v1`."""
    kind = next(TYPES[cls] for cls in type(error).__mro__ if cls in TYPES)
    code = kind if type(error) is InvalidRequest else error.code
    param = "model" if isinstance(error, ModelNotFound) else error.param
    return ErrorAnswer(ErrorBody(error.message, kind, param, code))


def describe_as_vllm(error: MyLLMError) -> ErrorAnswer:
    """The form of the service prefixes."""
    answer = describe(error)
    if error.status == 400:
        answer.error.type, answer.error.code = "BadRequestError", 400
    return answer


class ErrorForm:
    """Renders errors as one of the two forms does: as an answer, as a stream's last event, and for Starlette."""

    def __init__(self, describe: DescribeError) -> None:
        self.describe = describe

    def response(self, error: MyLLMError) -> Response:
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
        return json_response(self.describe(error), error.status, headers)

    def encode(self, error: MyLLMError) -> bytes:
        return msgspec.json.encode(self.describe(error))

    def event(self, error: MyLLMError) -> bytes:
        """What ends a broken stream. No `[DONE]` follows: it would tell that the answer is whole."""
        return b"data: " + self.encode(error) + b"\n\n"

    def exception_handlers(self) -> dict[Any, Any]:
        return exception_handlers(lambda request, error: self.response(error))


OPENAI_FORM = ErrorForm(describe)
VLLM_FORM = ErrorForm(describe_as_vllm)


def tell_of_prompt(error: InvalidRequest) -> None:
    """What the engine calls `messages` or `tokens` is the `prompt` of a completion."""
    if error.param in ("messages", "tokens"):
        error.message = error.message.replace(f"'{error.param}'", "'prompt'")
        error.param = "prompt"
