"""Whose form an error has that no dialect saw."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse

from myllm.errors import Draining, MyLLMError
from myllm.server.error_forms import ErrorForms


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/api/chat", "native"),
        ("/api", "native"),
        ("/apis", "other"),
        ("/api/v1", "service"),
        ("/api/v1/models", "service"),
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/", "other"),
        ("", "other"),
    ],
)
def test_the_longest_prefix_decides(path, form):
    def form_of(name: str):
        return lambda error: PlainTextResponse(name)

    prefixes = {"/api": "native", "/v1": "openai", "/api/v1": "service", "/v1/messages": "anthropic"}
    forms = ErrorForms({prefix: form_of(name) for prefix, name in prefixes.items()}, form_of("other"))

    assert forms({"path": path}, Draining("soon")).body.decode() == form
    assert issubclass(Draining, MyLLMError)
