"""The error form `{"error": "…"}`, and Ollama's words in the cases whose words clients match on.

Where Ollama's sentence leaves out what a person needs (the numbers, what a worker died of), it comes first and ours follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct
from starlette.responses import Response

from myllm.errors import (
    ContextLengthExceeded,
    InsufficientMemory,
    InvalidRequest,
    ModelNotFound,
    MyLLMError,
    QueueFull,
    WorkerDied,
)  # fmt: skip
from myllm.server.error_forms import exception_handlers
from myllm.server.ollama.answers import json_answer
from myllm.server.ollama.names import is_valid, quoted

BUSY = "server busy, please try again.  maximum pending requests exceeded"
DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
DIED_MIDWAY = "an error was encountered while running the model"
PROMPT_TOO_LONG = "the prompt is longer than the context length currently available to the model"
INPUT_TOO_LONG = "the input length exceeds the context length"
NOT_FOUND = "model '{name}' not found"
NOT_FOUND_TO_COPY = "model {quoted} not found"
NOT_FOUND_TO_EMBED = "model {quoted} not found, try pulling it first"


class ErrorAnswer(Struct):
    """What went wrong."""

    error: str


def describe(error: MyLLMError) -> tuple[int, str]:
    """The status and the words."""
    match error:
        case InsufficientMemory():
            return 500, error.message
        case QueueFull():
            return 503, BUSY
        case WorkerDied():
            return 500, f"{DIED}: {error.message}"
        case ContextLengthExceeded(param="input"):
            return 400, INPUT_TOO_LONG
        case ContextLengthExceeded():
            return 400, f"{PROMPT_TOO_LONG}; {error.message}"
    return error.status, error.message


def describe_midway(error: MyLLMError) -> str:
    """Of a stream that has begun; what is the server's failure is told as Ollama tells it."""
    return f"{DIED_MIDWAY}: {error.message}" if error.status >= 500 else describe(error)[1]


def render_error(error: MyLLMError) -> Response:
    status, message = describe(error)
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return json_answer(ErrorAnswer(message), status, headers)


@contextmanager
def told_of(name: str, words: str = NOT_FOUND) -> Iterator[None]:
    """A model that is not found is told by the name that was asked for; InvalidRequest for what can be no model's name."""
    try:
        yield
    except ModelNotFound as error:
        if name and not is_valid(name):
            raise InvalidRequest("invalid model name", param="model") from error
        raise ModelNotFound(words.format(name=name, quoted=quoted(name)), param="model") from error


ROUTER_WORDS = {404: "404 page not found", 405: "405 method not allowed"}
EXCEPTION_HANDLERS = exception_handlers(lambda request, error: render_error(error), ROUTER_WORDS)
