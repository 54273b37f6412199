"""MyLLM: language models on your own machine, for many users at once, with sessions that last.

`myllm.Client` and the errors that it raises are loaded when they are first named, so that importing this package stays cheap.
"""

TYPE_CHECKING = False  # type checkers know the name; loading typing for it takes longer than all the rest

if TYPE_CHECKING:
    from myllm import client, errors
    from myllm.client import (
        Answer,
        AsyncClient,
        AsyncSession,
        AsyncStream,
        Client,
        Completion,
        Embeddings,
        Message,
        Model,
        PullProgress,
        Session,
        Stream,
    )  # fmt: skip
    from myllm.errors import (
        Conflict,
        ContextLengthExceeded,
        Forbidden,
        GenerationTimeout,
        InsufficientMemory,
        InsufficientScope,
        InvalidRequest,
        ModelLoadFailed,
        ModelNotFound,
        MyLLMError,
        NotFound,
        QueueFull,
        QuotaExceeded,
        RateLimited,
        ServerUnreachable,
        SessionNotFound,
        Unauthorized,
        Unavailable,
        UnsupportedByModel,
        WorkerDied,
    )  # fmt: skip

__version__ = "0.1.0"

__all__ = [
    "Answer", "AsyncClient", "AsyncSession", "AsyncStream", "Client", "Completion", "Conflict", "ContextLengthExceeded", "Embeddings",
    "Forbidden", "GenerationTimeout", "InsufficientMemory", "InsufficientScope", "InvalidRequest", "Message", "Model",
    "ModelLoadFailed", "ModelNotFound", "MyLLMError", "NotFound", "PullProgress", "QueueFull", "QuotaExceeded", "RateLimited",
    "ServerUnreachable", "Session", "SessionNotFound", "Stream", "Unauthorized", "Unavailable", "UnsupportedByModel", "WorkerDied",
    "__version__", "client", "errors",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take it as a promise that every name is there

    def __getattr__(name):
        from importlib import import_module

        if name in ("client", "errors"):
            return import_module(f"myllm.{name}")
        for room in ("errors", "client") if name in __all__ else ():
            module = import_module(f"myllm.{room}")
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module 'myllm' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
