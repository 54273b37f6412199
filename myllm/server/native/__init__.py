"""The native dialect, `/api/…`: models, chat with sessions, generate, embeddings, tokens, status.

`bodies` parses, `render` answers, `endpoints` calls the service between them. Every error leaves as `{"detail": …}` with
the status of its class.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from myllm.errors import MyLLMError
from myllm.server.native.endpoints import NativeAPI
from myllm.server.native.render import json, render_error
from myllm.server.streaming import ClientLeft
from myllm.service import Service

__all__ = ["EXCEPTION_HANDLERS", "app", "render_error"]

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


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MyLLMError)
    return render_error(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {404: f"no such path: {request.url.path}", 405: f"{request.method} is not allowed on {request.url.path}"}
    return json({"detail": detail.get(error.status_code, error.detail)}, error.status_code, dict(error.headers or {}))


async def _on_client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the access log does


async def _on_bug(request: Request, error: Exception) -> Response:
    return json({"detail": "internal error; the server's log has the details"}, 500)


EXCEPTION_HANDLERS: dict[Any, Any] = {
    MyLLMError: _on_error,
    HTTPException: _on_http,
    ClientLeft: _on_client_left,
    Exception: _on_bug,
}
