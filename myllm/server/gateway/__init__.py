"""The gateway dialect: `/models`, `/chat` and `/chat/{model}`, for programs that ask one thing and want one answer.

`bodies` has the types, `render` answers, `endpoints` calls the service in between. Its paths stand at the root, so it is not
mounted under a prefix: its routes are the application's own, and so is its error form.
"""

from __future__ import annotations

from starlette.routing import Route

from myllm.server.gateway.endpoints import GatewayAPI
from myllm.server.gateway.operations import OPERATIONS
from myllm.service import Service

__all__ = ["OPERATIONS", "routes"]


def routes(service: Service) -> list[Route]:
    api = GatewayAPI(service)
    return [
        Route("/models", api.list_models),
        Route("/chat", api.chat, methods=["POST"]),
        Route("/chat/{model:path}", api.chat, methods=["POST"]),
    ]
