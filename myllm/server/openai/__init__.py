"""OpenAI's dialect, `/v1/…`, and the service prefixes, which are the same dialect with a part of the models.

`bodies`, `messages` and `refused` say what is taken, `requests` and `job` make it run, `render` and `chunks` answer, and
`errors` tells what went wrong. The WebSocket runs the same jobs as HTTP does.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from myllm.server.openai.endpoints import OpenAIAPI
from myllm.server.openai.errors import OPENAI_FORM, VLLM_FORM
from myllm.server.openai.operations import OPERATIONS, operations
from myllm.server.openai.rerank import RerankAPI
from myllm.server.openai.responses import ResponsesAPI
from myllm.server.openai.service_models import ServiceModels, services
from myllm.server.openai.websocket import ChatSocket
from myllm.service import Service

__all__ = ["OPERATIONS", "ServiceModels", "app", "operations", "render_error", "render_service_error", "services"]

render_error = OPENAI_FORM.response
render_service_error = VLLM_FORM.response


def app(service: Service, offered: ServiceModels | None = None) -> Starlette:
    """The dialect as an application to mount at `/v1`, or with the models that it offers at a service's prefix."""
    form = OPENAI_FORM if offered is None else VLLM_FORM
    api = OpenAIAPI(service, form, offered)
    application = Starlette(
        routes=[
            Route("/models", api.list_models),
            Route("/models/{id:path}", api.get_model),
            Route("/chat/completions", api.chat_completions, methods=["POST"]),
            Route("/completions", api.completions, methods=["POST"]),
            Route("/embeddings", api.embeddings, methods=["POST"]),
            *ResponsesAPI(service, api.requests).routes(),
            *RerankAPI(service, api.requests).routes(),
            WebSocketRoute("/chat/completions", ChatSocket(api.requests, form).serve),
        ],
        exception_handlers=form.exception_handlers(),
    )
    application.router.redirect_slashes = False  # the place to redirect to would be told with a prefix that a listener put there
    return application
