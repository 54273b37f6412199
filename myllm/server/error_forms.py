"""`ErrorForms`: in which dialect's form an error is told that was met before any dialect saw the request."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from myllm.errors import MyLLMError

RenderError = Callable[[MyLLMError], Response]


class ErrorForms:
    """The form of the longest prefix that the path has, on a border of its parts; `otherwise` where it has none."""

    def __init__(self, forms: Mapping[str, RenderError], otherwise: RenderError) -> None:
        self._forms = sorted(forms.items(), key=lambda form: -len(form[0]))
        self._otherwise = otherwise

    def __call__(self, scope: Scope, error: MyLLMError) -> Response:
        path = scope["path"] + "/"
        return next((render for prefix, render in self._forms if path.startswith(prefix + "/")), self._otherwise)(error)
