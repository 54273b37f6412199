"""The Ollama dialect, `/ollama/api/…`, and `/api/…` on a port of its own: Ollama's API to the field, for its clients as they are.

`bodies` and `requests` parse, `answers` and `render` tell, `runs`, `vectors` and `models` call the service in between. Ollama's
words in errors are `errors`'. What its API has and this server has not is refused by name.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from myllm.server.ollama.errors import EXCEPTION_HANDLERS, render_error
from myllm.server.ollama.models import Models
from myllm.server.ollama.operations import OPERATIONS
from myllm.server.ollama.runs import Runs
from myllm.server.ollama.vectors import Vectors
from myllm.service import Service

__all__ = ["OPERATIONS", "PREFIX", "app", "render_error"]

PREFIX = "/ollama"


def app(service: Service) -> Starlette:
    """The dialect as an application to mount at `PREFIX`, or at the root of a listener."""
    models, runs, vectors = Models(service), Runs(service), Vectors(service)
    return Starlette(
        routes=[
            Route("/", models.root),
            Route("/api/version", models.version),
            Route("/api/status", models.status),
            Route("/api/tags", models.tags),
            Route("/api/ps", models.ps),
            Route("/api/show", models.show, methods=["POST"]),
            Route("/api/generate", runs.generate, methods=["POST"]),
            Route("/api/chat", runs.chat, methods=["POST"]),
            Route("/api/embed", vectors.embed, methods=["POST"]),
            Route("/api/embeddings", vectors.embeddings, methods=["POST"]),
            Route("/api/pull", models.pull, methods=["POST"]),
            Route("/api/push", models.push, methods=["POST"]),
            Route("/api/create", models.create, methods=["POST"]),
            Route("/api/copy", models.copy, methods=["POST"]),
            Route("/api/delete", models.delete, methods=["DELETE"]),
            Route("/api/blobs/{digest}", models.has_blob, methods=["HEAD"]),
            Route("/api/blobs/{digest}", models.upload_blob, methods=["POST"]),
            Route("/api/me", models.account, methods=["POST"]),
            Route("/api/signout", models.account, methods=["POST"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
