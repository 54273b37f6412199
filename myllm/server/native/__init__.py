"""The native dialect, `/api/…`: models, chat with sessions, generate, embeddings, tokens, status.

`bodies` parses, `render` answers, `endpoints` calls the service between them. Every error leaves as `{"detail": …}` with
the status of its class.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from myllm.server.detail_form import EXCEPTION_HANDLERS, render_error
from myllm.server.native.endpoints import NativeAPI
from myllm.server.native.operations import OPERATIONS
from myllm.service import Service

__all__ = ["OPERATIONS", "app", "render_error"]


def app(service: Service) -> Starlette:
    """The dialect as an application to mount at `/api`."""
    api = NativeAPI(service)
    return Starlette(
        routes=[
            Route("/models", api.list_models),
            Route("/models/pull", api.pull_model, methods=["POST"]),
            Route("/models/{name:path}/load", api.load_model, methods=["POST"]),
            Route("/models/{name:path}/unload", api.unload_model, methods=["POST"]),
            Route("/models/{name:path}", api.get_model),
            Route("/models/{name:path}", api.delete_model, methods=["DELETE"]),
            Route("/chat", api.chat, methods=["POST"]),
            Route("/generate", api.generate, methods=["POST"]),
            Route("/embeddings", api.embeddings, methods=["POST"]),
            Route("/rerank", api.rerank, methods=["POST"]),
            Route("/tokenize", api.tokenize, methods=["POST"]),
            Route("/detokenize", api.detokenize, methods=["POST"]),
            Route("/sessions", api.list_sessions),
            Route("/sessions/{id}", api.get_session),
            Route("/sessions/{id}", api.rename_session, methods=["PATCH"]),
            Route("/sessions/{id}", api.delete_session, methods=["DELETE"]),
            Route("/sessions/{id}/fork", api.fork_session, methods=["POST"]),
            Route("/status", api.status),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
