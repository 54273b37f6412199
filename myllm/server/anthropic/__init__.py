"""The Anthropic dialect, `/v1/messages` and `/v1/messages/count_tokens`, for Anthropic's SDKs as they are.

It owns these paths in the middle of the OpenAI dialect's, so its routes are whole paths and it is not mounted below a
prefix. `bodies` parses, `render` answers, `errors` has the form of errors, `endpoints` calls the service between them.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from myllm.server.anthropic.endpoints import AnthropicAPI
from myllm.server.anthropic.errors import EXCEPTION_HANDLERS, render_error
from myllm.server.anthropic.operations import OPERATIONS
from myllm.service import Service

__all__ = ["OPERATIONS", "PREFIX", "app", "render_error"]

PREFIX = "/v1/messages"


def app(service: Service) -> Starlette:
    """The dialect as an application that is given whole paths, `PREFIX` and below."""
    api = AnthropicAPI(service)
    application = Starlette(
        routes=[
            Route(PREFIX, api.messages, methods=["POST"]),
            Route(PREFIX + "/count_tokens", api.count_tokens, methods=["POST"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    application.router.redirect_slashes = False  # a path with a slash too many is none of ours
    return application
