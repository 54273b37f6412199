"""Every error that leaves this program, one tree; each class carries its HTTP status and its machine-readable code.

    MyLLMError                     500 server_error
    ├── InvalidRequest             400 invalid_request          `param` names the field
    │   ├── ContextLengthExceeded  400 context_length_exceeded  both numbers in the message
    │   ├── TemplateFailed         400 template_error           the template's line in the message
    │   ├── UnsupportedByModel     400 unsupported_by_model     a capability that the model lacks
    │   └── BodyTooLarge           413 body_too_large
    ├── Unauthorized               401 invalid_api_key
    ├── Forbidden                  403 forbidden
    │   └── InsufficientScope      403 insufficient_scope       the key's scope does not cover what was asked
    ├── RateLimited                429 rate_limit_exceeded      a minute's limit; `retry_after_s` until it is over
    │   └── QuotaExceeded          429 insufficient_quota       the day's
    ├── NotFound                   404 not_found
    │   ├── ModelNotFound          404 model_not_found
    │   └── SessionNotFound        404 session_not_found
    ├── MethodNotAllowed           405 method_not_allowed
    ├── Conflict                   409 conflict
    ├── Unavailable                503 service_unavailable      `retry_after_s` where waiting helps
    │   ├── QueueFull              503 queue_full
    │   ├── Draining               503 draining
    │   └── InsufficientMemory     503 insufficient_memory
    ├── GenerationTimeout          504 timeout
    ├── InsufficientStorage        507 insufficient_storage     both numbers in the message
    ├── DownloadFailed             502 download_failed          the Hub sent something else than it had promised
    │   └── HubUnreachable         502 hub_unreachable          it did not answer, or broke off: asking again may help
    ├── ModelLoadFailed            500 model_load_failed        a file that llama.cpp refuses
    ├── WorkerDied                 500 worker_died              signal and last words in the message
    ├── EngineFault                500 engine_fault             llama.cpp's state is unknown: the worker must exit
    ├── ConfigInvalid              —   config_invalid           stops the start, never reaches HTTP
    └── ServerUnreachable          —   server_unreachable       a client verb without its server

A dialect renders an error; it never invents one. The worker sends errors as (code, message, param), and `from_code`
brings them back on the parent's side as the same class.
"""

from __future__ import annotations

from typing import ClassVar


class MyLLMError(Exception):
    """The root. `message` says what happened, with which numbers, and what to do about it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(MyLLMError):
    status, code = 400, "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class TemplateFailed(InvalidRequest):
    code = "template_error"


class UnsupportedByModel(InvalidRequest):
    code = "unsupported_by_model"


class BodyTooLarge(InvalidRequest):
    status, code = 413, "body_too_large"


class Unauthorized(MyLLMError):
    status, code = 401, "invalid_api_key"


class Forbidden(MyLLMError):
    status, code = 403, "forbidden"


class InsufficientScope(Forbidden):
    code = "insufficient_scope"


class RateLimited(MyLLMError):
    status, code = 429, "rate_limit_exceeded"


class QuotaExceeded(RateLimited):
    code = "insufficient_quota"


class NotFound(MyLLMError):
    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"


class MethodNotAllowed(MyLLMError):
    status, code = 405, "method_not_allowed"


class Conflict(MyLLMError):
    status, code = 409, "conflict"


class Unavailable(MyLLMError):
    status, code = 503, "service_unavailable"


class QueueFull(Unavailable):
    code = "queue_full"


class Draining(Unavailable):
    code = "draining"


class InsufficientMemory(Unavailable):
    code = "insufficient_memory"


class GenerationTimeout(MyLLMError):
    status, code = 504, "timeout"


class InsufficientStorage(MyLLMError):
    status, code = 507, "insufficient_storage"


class DownloadFailed(MyLLMError):
    status, code = 502, "download_failed"


class HubUnreachable(DownloadFailed):
    code = "hub_unreachable"


class ModelLoadFailed(MyLLMError):
    code = "model_load_failed"


class WorkerDied(MyLLMError):
    code = "worker_died"


class EngineFault(MyLLMError):
    code = "engine_fault"


class ConfigInvalid(MyLLMError):
    code = "config_invalid"


class ServerUnreachable(MyLLMError):
    code = "server_unreachable"


def _subclasses(cls: type[MyLLMError]) -> list[type[MyLLMError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _subclasses(child))]


BY_CODE: dict[str, type[MyLLMError]] = {cls.code: cls for cls in _subclasses(MyLLMError)}


def from_code(code: str, message: str, param: str | None = None) -> MyLLMError:
    """The error that a worker sent over the wire; an unknown code becomes the root."""
    return BY_CODE.get(code, MyLLMError)(message, param=param)
