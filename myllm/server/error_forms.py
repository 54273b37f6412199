"""How errors leave the server: `exception_handlers` of a dialect, and `ErrorForms`, which chooses a form before any dialect is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from myllm.errors import MethodNotAllowed, MyLLMError, NotFound
from myllm.server.streaming import ClientLeft

RenderError = Callable[[MyLLMError], Response]

ROUTER_WORDS = {404: "no such path: {path}", 405: "{method} is not allowed on {path}"}


def exception_handlers(render: Callable[[Request, MyLLMError], Response], words: Mapping[int, str] = ROUTER_WORDS) -> dict[Any, Any]:
    """What Starlette is to do with each error that leaves an endpoint of a dialect, so that all go out in `render`'s form.

    words: what is told of a path that no route has (404) and of a method that a route has not (405).
    """

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, MyLLMError)
        return render(request, error)

    async def on_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        kind = {404: NotFound, 405: MethodNotAllowed}.get(status, MyLLMError)
        refusal = kind(words[status].format(path=request.scope["path"], method=request.method) if status in words else error.detail)
        answer = render(request, refusal)
        answer.status_code = status
        answer.headers.update(error.headers or {})
        return answer

    async def on_client_left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the access log does

    async def on_bug(request: Request, error: Exception) -> Response:
        return render(request, MyLLMError("internal error; the server's log has the details"))

    return {
        MyLLMError: on_error,
        HTTPException: on_router,
        ClientLeft: on_client_left,
        ClientDisconnect: on_client_left,
        Exception: on_bug,
    }


class ErrorForms:
    """The form of the longest prefix that the path has, on a border of its parts; `otherwise` where it has none."""

    def __init__(self, forms: Mapping[str, RenderError], otherwise: RenderError) -> None:
        self._forms = sorted(forms.items(), key=lambda form: -len(form[0]))
        self._otherwise = otherwise

    def __call__(self, scope: Scope, error: MyLLMError) -> Response:
        path = scope["path"] + "/"
        return next((render for prefix, render in self._forms if path.startswith(prefix + "/")), self._otherwise)(error)
