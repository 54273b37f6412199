"""Every error of the tree in every dialect: its status and its body, and the common refusals at the running server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live_server import LiveServer, wait_until

from myllm import errors
from myllm.chat.library import TemplateLibrary, templates_folder
from myllm.config import Settings
from myllm.errors import BY_CODE, MyLLMError
from myllm.manager import ModelManager
from myllm.server.app import dialects
from myllm.server.detail_form import render_error as render_detail
from myllm.server.error_forms import RenderError
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.store.catalog import Catalog
from myllm.store.store import Store

# Class: status, OpenAI's type and code, Anthropic's type. Native, the gateway and Ollama tell the message alone.
ERRORS: dict[type[MyLLMError], tuple[int, str, str, str]] = {
    errors.MyLLMError: (500, "server_error", "server_error", "api_error"),
    errors.InvalidRequest: (400, "invalid_request_error", "invalid_request_error", "invalid_request_error"),
    errors.ContextLengthExceeded: (400, "invalid_request_error", "context_length_exceeded", "invalid_request_error"),
    errors.TemplateFailed: (400, "invalid_request_error", "template_error", "invalid_request_error"),
    errors.UnsupportedByModel: (400, "invalid_request_error", "unsupported_by_model", "invalid_request_error"),
    errors.BodyTooLarge: (413, "invalid_request_error", "body_too_large", "request_too_large"),
    errors.Unauthorized: (401, "authentication_error", "invalid_api_key", "authentication_error"),
    errors.Forbidden: (403, "permission_error", "forbidden", "permission_error"),
    errors.InsufficientScope: (403, "permission_error", "insufficient_scope", "permission_error"),
    errors.RateLimited: (429, "rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error"),
    errors.QuotaExceeded: (429, "insufficient_quota", "insufficient_quota", "rate_limit_error"),
    errors.NotFound: (404, "invalid_request_error", "not_found", "not_found_error"),
    errors.ModelNotFound: (404, "invalid_request_error", "model_not_found", "not_found_error"),
    errors.SessionNotFound: (404, "invalid_request_error", "session_not_found", "not_found_error"),
    errors.MethodNotAllowed: (405, "invalid_request_error", "method_not_allowed", "invalid_request_error"),
    errors.Conflict: (409, "invalid_request_error", "conflict", "invalid_request_error"),
    errors.Unavailable: (503, "service_unavailable", "service_unavailable", "overloaded_error"),
    errors.QueueFull: (503, "service_unavailable", "queue_full", "overloaded_error"),
    errors.Draining: (503, "service_unavailable", "draining", "overloaded_error"),
    errors.InsufficientMemory: (503, "service_unavailable", "insufficient_memory", "overloaded_error"),
    errors.GenerationTimeout: (504, "server_error", "timeout", "timeout_error"),
    errors.InsufficientStorage: (507, "server_error", "insufficient_storage", "api_error"),
    errors.DownloadFailed: (502, "server_error", "download_failed", "api_error"),
    errors.HubUnreachable: (502, "server_error", "hub_unreachable", "api_error"),
    errors.ModelLoadFailed: (500, "server_error", "model_load_failed", "api_error"),
    errors.WorkerDied: (500, "server_error", "worker_died", "api_error"),
    errors.EngineFault: (500, "server_error", "engine_fault", "api_error"),
}
# The texts that Ollama's clients look for; `…` is ours.
OLLAMA_TEXTS = {
    errors.ContextLengthExceeded: "the prompt is longer than the context length currently available to the model; …",
    errors.QueueFull: "server busy, please try again.  maximum pending requests exceeded",
    errors.WorkerDied: "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details: …",
}
NEVER_OVER_HTTP = {errors.ConfigInvalid, errors.ServerUnreachable}
DIALECTS = ("native", "gateway", "openai", "service", "anthropic", "ollama")
PREFIXES = {"native": "/api", "openai": "/v1", "service": "/code/v1", "anthropic": "/v1/messages", "ollama": "/ollama"}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RenderError]:
    """How each dialect, as the application has it, renders an error."""
    folder = tmp_path_factory.mktemp("home")
    store, settings = Store(folder, catalog=Catalog.load()), Settings()
    service = Service(settings, store, SessionStore(folder / "s.db"), ModelManager(store, settings), TemplateLibrary(templates_folder()))
    by_prefix = {dialect.prefix: dialect.render_error for dialect in dialects(service)}
    return {"gateway": render_detail} | {name: by_prefix[prefix] for name, prefix in PREFIXES.items()}


def expected(dialect: str, error: MyLLMError) -> tuple[int, dict[str, Any]]:
    status, openai_type, openai_code, anthropic_type = ERRORS[type(error)]
    if dialect in ("native", "gateway"):
        return status, {"detail": error.message}
    if dialect == "ollama":
        text = OLLAMA_TEXTS.get(type(error), "…").replace("…", error.message)
        return 500 if isinstance(error, errors.InsufficientMemory) else status, {"error": text}
    if dialect == "anthropic":
        return status, {"type": "error", "error": {"type": anthropic_type, "message": error.message}}
    is_vllms = dialect == "service" and status == 400
    kind, code = ("BadRequestError", 400) if is_vllms else (openai_type, openai_code)
    param = "model" if isinstance(error, errors.ModelNotFound) else error.param
    return status, {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_shape_in_every_dialect(kind: type[MyLLMError], dialect: str, forms: dict[str, RenderError]) -> None:
    error = kind("what happened, and the way out", param="field", retry_after_s=7)

    response = forms[dialect](error)

    body = json.loads(bytes(response.body))
    request_id = body.pop("request_id", None)
    assert (response.status_code, body) == expected(dialect, error)
    assert response.headers["retry-after"] == "7"
    assert (request_id is not None) == (dialect == "anthropic")


def test_no_class_of_the_tree_is_left_out() -> None:
    assert set(ERRORS) | NEVER_OVER_HTTP == set(BY_CODE.values())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that takes small bodies."""
    live = LiveServer(tmp_path_factory.mktemp("home"), "--model", "tiny", MYLLM_MAX_BODY_BYTES="20000")
    wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
    yield live
    live.stop()


ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
CHATS: dict[str, tuple[str, dict[str, Any]]] = {
    "native": ("/api/chat", {"messages": ASK["messages"]}),
    "gateway": ("/chat", {"message": "Hi"}),
    "openai": ("/v1/chat/completions", ASK),
    "service": ("/code/v1/chat/completions", {"messages": "Hi"}),
    "anthropic": ("/v1/messages", ASK),
    "ollama": ("/ollama/api/chat", {"messages": ASK["messages"], "stream": False}),
}
UNKNOWN_PATHS = {
    "native": "/api/nothing",
    "gateway": "/models/nothing",
    "openai": "/v1/nothing",
    "service": "/code/v1/nothing",
    "anthropic": "/v1/messages/nothing",
    "ollama": "/ollama/api/nothing",
}


def message_of(dialect: str, response: httpx.Response) -> str:
    """The message, from where this dialect has it; fails where the form is another's."""
    body = response.json()
    if dialect in ("native", "gateway"):
        assert list(body) == ["detail"]
        return str(body["detail"])
    if dialect == "ollama":
        assert list(body) == ["error"]
        return str(body["error"])
    fields = {"type", "message"} if dialect == "anthropic" else {"message", "type", "param", "code"}
    assert set(body["error"]) == fields
    return str(body["error"]["message"])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("an unknown model", 404, "not found"),
        ("no JSON", 400, ""),
        ("an empty body", 400, ""),
        ("a body that is too large", 413, "20,000"),
        ("a prompt that is too long", 400, r"tokens.*(2,048|2048)"),
        ("an unknown path", 404, ""),
        ("a wrong method", 405, ""),
    ],
)
def test_a_refusal_at_the_running_server_has_its_status_and_its_dialects_form(
    what: str, status: int, words: str, dialect: str, small: LiveServer
) -> None:
    path, body = CHATS[dialect]
    long = json.loads(json.dumps({**body, "model": "tiny"}).replace('"Hi"', json.dumps("one two three " * 1000)))
    if dialect == "ollama" and what == "a prompt that is too long":
        long["truncate"] = False  # what Ollama's clients expect otherwise is a prompt that was cut
    requests: dict[str, tuple[str, str, bytes]] = {
        "an unknown model": ("POST", path, json.dumps({**body, "model": "none"}).encode()),
        "no JSON": ("POST", path, b"{model: tiny"),
        "an empty body": ("POST", path, b""),
        "a body that is too large": ("POST", path, json.dumps({**body, "model": "tiny", "more": "x" * 30_000}).encode()),
        "a prompt that is too long": ("POST", path, json.dumps(long).encode()),
        "an unknown path": ("GET", UNKNOWN_PATHS[dialect], b""),
        "a wrong method": ("PUT", path, b"{}"),
    }
    method, url, content = requests[what]

    response = small.http.request(method, url, content=content)

    assert response.status_code == status, response.text
    assert re.search(words, message_of(dialect, response))


@pytest.mark.parametrize("dialect", ["native", "openai", "service"])
def test_a_prefix_alone_is_refused_in_its_dialects_form(dialect: str, small: LiveServer) -> None:
    """It was a redirect to the prefix with a slash, and that a 404."""
    for path in (PREFIXES[dialect], PREFIXES[dialect] + "/"):
        response = small.http.get(path)

        assert response.status_code == 404
        assert message_of(dialect, response)


def test_ollamas_prefix_is_its_root_with_and_without_a_slash(small: LiveServer) -> None:
    assert [small.http.get(path).text for path in ("/ollama", "/ollama/")] == ["Ollama is running"] * 2


@pytest.mark.parametrize(("dialect", "status"), [("native", 404), ("openai", 404), ("service", 404), ("anthropic", 404), ("ollama", 400)])
def test_a_line_break_in_a_path_is_refused_in_its_dialects_form(dialect: str, status: int, small: LiveServer) -> None:
    """Starlette's mounts did not match such a path, and so it had the form of no dialect."""
    paths = {"native": "/api/sessions/", "ollama": "/ollama/api/blobs/", "anthropic": "/v1/messages/"}
    method = "POST" if dialect == "ollama" else "DELETE"

    response = small.http.request(method, paths.get(dialect, PREFIXES[dialect] + "/responses/") + "a%0Ab")

    assert response.status_code == status
    assert message_of(dialect, response)
