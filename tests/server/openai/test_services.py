"""The service prefixes: the same dialect with a service's models, bodies in `payload`, and vLLM's 400."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import LiveServer
from openai_calls import HELLO, Calls, asked

PRINTED = {"messages": "This is a test sentence.", "temperature": 0.7, "max_tokens": 20}
UNTIL_CONFIGURED = ["/api/v1", "/chat/v1", "/code/v1"]
CHAT, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"


@pytest.fixture
def api(server: LiveServer) -> Calls:
    return Calls(server, "/api/v1")


@pytest.fixture
def code(zoo: LiveServer) -> Calls:
    return Calls(zoo, "/code/v1", model="org/plain:2b")


@pytest.mark.parametrize("prefix", UNTIL_CONFIGURED)
def test_until_configured_each_service_has_all_models(server: LiveServer, prefix: str) -> None:
    (model,) = server.http.get(f"{prefix}/models").json()["data"]

    assert (model["id"], model["object"], model["owned_by"]) == ("tiny", "model", "vllm")
    assert server.http.get(f"{prefix}/models/tiny").json()["id"] == "tiny"


@pytest.mark.parametrize("prefix", UNTIL_CONFIGURED)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_wrapped_body_with_a_plain_message_is_a_chat_on_both_paths(server: LiveServer, prefix: str, path: str) -> None:
    response = server.post(prefix + path, payload={"model": "tiny"} | PRINTED)

    answer = response.json()
    assert response.status_code == 200 and answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant" and answer["choices"][0]["message"]["content"]


def test_a_plain_message_is_one_of_the_user(api: Calls) -> None:
    wrapped = api.server.post("/api/v1/chat/completions", payload={"model": "tiny", "messages": "Hello!", "temperature": 0}).json()

    assert wrapped["choices"][0]["message"]["content"] == HELLO == api.say("Hello!") == api.say(messages="Hello!")
    assert wrapped["usage"]["prompt_tokens"] == 12


def test_completions_with_a_prompt_are_completions(api: Calls) -> None:
    payload = {"model": "tiny", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 3}

    wrapped = api.server.post("/api/v1/completions", payload=payload).json()

    assert wrapped["object"] == "text_completion" and wrapped["choices"] == api.complete(max_tokens=3)["choices"]


def test_a_wrapped_body_streams(api: Calls) -> None:
    response = api.server.post("/api/v1/completions", payload={"model": "tiny", "messages": "Hello!", "stream": True})

    assert response.text.startswith('data: {"id":"chatcmpl-') and response.text.endswith("data: [DONE]\n\n")
    assert api.stream(CHAT, **asked("Hello!"), temperature=0).texts == [HELLO]


def test_a_wrapped_body_may_lie_beside_other_fields(api: Calls) -> None:
    wrapped = api.server.post(
        "/api/v1/chat/completions", model="ignored", payload={"model": "tiny", "messages": "Hello!", "temperature": 0}
    )

    assert wrapped.json()["choices"][0]["message"]["content"] == HELLO


@pytest.mark.parametrize("prefix", UNTIL_CONFIGURED)
def test_a_model_not_made_for_embeddings_says_so(server: LiveServer, prefix: str) -> None:
    body = {"model": "tiny", "input": "This is a test sentence.", "encoding_format": "float"}

    for sent in ({"payload": body}, body):
        response = server.http.post(f"{prefix}/embeddings", json=sent)

        error = response.json()["error"]
        assert response.status_code == 400 and error["message"] == "The model does not support Embeddings API"
        assert (error["type"], error["code"]) == ("BadRequestError", 400)


def test_a_model_made_for_embeddings_embeds_on_its_service(zoo: LiveServer) -> None:
    vectors = Calls(zoo, "/some/vectors", model="bert")

    assert len(vectors.post(EMBEDDINGS, input="Hello").json()["data"][0]["embedding"]) == 64
    assert vectors.error(EMBEDDINGS, model="exact", input="Hello")["message"] == "The model does not support Embeddings API"
    assert vectors.error(EMBEDDINGS, model=None, input="Hello")["message"] == "The model does not support Embeddings API"  # the default's


def test_a_service_lists_its_models_only(zoo: LiveServer) -> None:
    listed = {
        prefix: [model["id"] for model in zoo.http.get(f"{prefix}/models").json()["data"]]
        for prefix in ("/code/v1", "/some/vectors", "/api/v1")
    }

    assert listed == {
        "/code/v1": ["org/plain:2b"],
        "/some/vectors": ["bert", "exact"],
        "/api/v1": ["bert", "exact", "org/plain:2b", "tiny"],
    }


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, asked("x")), (COMPLETIONS, {"prompt": "x"}), (COMPLETIONS, asked("x")), (EMBEDDINGS, {"input": "x"})]
)
def test_a_model_outside_of_the_service_is_404(code: Calls, path: str, body: dict[str, Any]) -> None:
    error = code.error(path, 404, model="tiny", **body)

    assert error["code"] == "model_not_found" and error["param"] == "model" and "org/plain:2b" in error["message"]
    assert code.server.http.get("/code/v1/models/tiny").status_code == 404


def test_a_model_of_the_service_answers_by_all_its_names(code: Calls) -> None:
    assert code.chat(model="org/plain", max_tokens=1)["model"] == "org/plain:2b"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, asked("x") | {"temperature": 3}, "temperature"),
        (CHAT, {}, "messages"),
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, asked("x") | {"prompt": "x"}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": 5}, "messages"),
    ],
)
def test_a_400_is_told_as_vllm_tells_it_wrapped_or_not(api: Calls, path: str, body: dict[str, Any], param: str) -> None:
    for sent in (body, {"payload": {"model": "tiny"} | body}):
        error = api.error(path, **sent)

        assert (error["type"], error["code"], error["param"]) == ("BadRequestError", 400, param)


@pytest.mark.parametrize("payload", [5, "x", [], None])
def test_a_payload_that_is_no_object_is_refused(api: Calls, payload: Any) -> None:
    response = api.server.http.post("/api/v1/chat/completions", json={"payload": payload})

    assert response.status_code == 400 and response.json()["error"]["code"] == 400
    assert response.json()["error"]["param"] == "payload" and "'payload' takes an object" in response.json()["error"]["message"]


def test_other_statuses_are_told_as_openai_tells_them(api: Calls) -> None:
    assert api.error(CHAT, 404, **asked("x"), model="none")["code"] == "model_not_found"
    assert api.server.http.get("/api/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert api.server.http.get("/api/v1/chat/completions").status_code == 405


def test_beside_the_services_the_native_api_is_where_it_was(server: LiveServer) -> None:
    assert "models" in server.http.get("/api/models").json()
    assert server.http.get("/api/nothing").json().keys() == {"detail"}
