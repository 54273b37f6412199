"""Every error of the house has its form in this dialect."""

from __future__ import annotations

import json

import pytest
from live_server import LiveServer

from myllm import errors
from myllm.server.openai.errors import OPENAI_FORM, VLLM_FORM

TABLE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_exceeded",
    503: "service_unavailable",
}
CODES = {
    errors.InvalidRequest: "invalid_request_error",
    errors.ContextLengthExceeded: "context_length_exceeded",
    errors.Unauthorized: "invalid_api_key",
    errors.InsufficientScope: "insufficient_scope",
    errors.ModelNotFound: "model_not_found",
    errors.RateLimited: "rate_limit_exceeded",
    errors.QuotaExceeded: "insufficient_quota",
    errors.Unavailable: "service_unavailable",
    errors.MyLLMError: "server_error",
}


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_status_type_and_message(kind: type[errors.MyLLMError]) -> None:
    error = kind("it broke", param="field", retry_after_s=7)

    answer = OPENAI_FORM.response(error)

    told = json.loads(answer.body)["error"]
    expected = "insufficient_quota" if kind is errors.QuotaExceeded else TABLE.get(kind.status, "server_error")
    assert answer.status_code == kind.status and answer.headers["retry-after"] == "7"
    assert told["message"] == "it broke" and told["type"] == expected and told["code"] == CODES.get(kind, kind.code)
    assert told["param"] == ("model" if kind is errors.ModelNotFound else "field")


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_on_a_service_only_a_400_differs(kind: type[errors.MyLLMError]) -> None:
    told = json.loads(VLLM_FORM.response(kind("it broke")).body)["error"]

    plain = json.loads(OPENAI_FORM.response(kind("it broke")).body)["error"]
    assert told == (plain | {"type": "BadRequestError", "code": 400} if kind.status == 400 else plain)


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/responses/", "/v1/messages/", "/api/v1/completions/"])
def test_a_path_with_a_slash_too_many_is_not_found(server: LiveServer, path: str) -> None:
    """It was redirected, on the Ollama API's own port to where nothing is."""
    response = server.http.post(path, json={})

    assert response.status_code == 404 and path in response.json()["error"]["message"]


def test_a_streams_error_is_one_event() -> None:
    event = OPENAI_FORM.event(errors.WorkerDied("it died"))

    assert event.startswith(b'data: {"error":{"message":"it died"') and event.endswith(b"}}\n\n") and event.count(b"\n") == 2
