"""The gateway against the running server: every endpoint and field, its stream, and its errors."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from live_server import LiveServer, wait_until
from typed_answers import assert_is

from myllm.server.gateway.bodies import ChatAnswer, LastEvent, ModelList, TokenEvent

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
QUESTION = {"message": "What is 3 + 4?", "temperature": 0}


def ask(server: LiveServer, path: str = "/chat", **body: Any) -> dict[str, Any]:
    response = server.post(path, **body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_is(ChatAnswer, answer)
    return answer


def test_a_message_is_answered_with_response_model_and_usage(server: LiveServer) -> None:
    answer = ask(server, message="Hello!", temperature=0, reasoning="low")

    assert answer == {
        "response": HELLO,
        "model": "tiny",
        "usage": {"prompt_tokens": 12, "completion_tokens": 24, "total_tokens": 36},
    }


def test_the_message_alone_is_enough(server: LiveServer) -> None:
    answer = ask(server, message="Hello!")

    assert answer["model"] == "tiny" and answer["usage"]["completion_tokens"] > 1


def test_a_field_that_is_null_was_not_given(server: LiveServer) -> None:
    answer = ask(server, message="Hello!", model=None, max_tokens=None, temperature=None, reasoning=None, stream=None)

    assert answer["model"] == "tiny" and "reasoning" in answer


@pytest.mark.parametrize(("effort", "has_thoughts"), [("low", False), ("medium", True), ("high", True), (None, True)])
def test_thoughts_come_in_reasoning_and_low_is_off(server: LiveServer, effort: str | None, has_thoughts: bool) -> None:
    answer = ask(server, **QUESTION, **({"reasoning": effort} if effort else {}))

    assert answer["response"] == "3 + 4 = 7"
    assert answer.get("reasoning") == ("I add the numbers: 3 + 4 = 7." if has_thoughts else None)


def test_thoughts_that_run_out_of_tokens_leave_the_response_empty(server: LiveServer) -> None:
    answer = ask(server, **QUESTION, max_tokens=4)

    assert answer["response"] == "" and answer["usage"]["completion_tokens"] == 4
    assert "I add the numbers: 3 + 4 = 7.".startswith(answer["reasoning"])


def test_reasoning_does_nothing_on_a_model_that_cannot_think(thoughtless: LiveServer) -> None:
    low, high = (ask(thoughtless, message="Hello!", reasoning=effort, max_tokens=8, temperature=0) for effort in ("low", "high"))

    assert low == high and "reasoning" not in high and high["model"] == "thoughtless"


def test_thoughts_of_a_template_that_was_given_come_in_reasoning(thoughtless: LiveServer) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}<think>"
    made = {"model": "thoughtful", "from": "thoughtless", "template": template, "stream": False}
    thoughtless.http.post("/ollama/api/create", json=made).raise_for_status()

    answer = ask(thoughtless, model="thoughtful", message="Hello!", max_tokens=4, temperature=0)
    thoughtless.http.delete("/api/models/thoughtful").raise_for_status()

    assert answer["response"] == "" and answer["reasoning"]


@pytest.mark.parametrize("body", [QUESTION, {"message": "Repeat after me: 😀 你好", "temperature": 0, "reasoning": "low"}])
def test_a_stream_tells_what_the_whole_answer_does(server: LiveServer, body: dict[str, Any]) -> None:
    whole = ask(server, **body)

    *events, last = server.stream("/chat", **body)

    for event in events:
        assert_is(TokenEvent, event)
        assert (event["token"] == "") == ("reasoning" in event)  # one of the two, never nothing
    assert_is(LastEvent, last)
    assert last == {"done": True, **whole}
    assert "".join(event["token"] for event in events) == whole["response"]
    assert "".join(event.get("reasoning", "") for event in events) == whole.get("reasoning", "")
    assert len(events) > 3


def test_events_are_server_sent_events(server: LiveServer) -> None:
    response = server.post("/chat", message="Hello!", stream=True, max_tokens=3)

    assert response.headers["content-type"].startswith("text/event-stream") and response.headers["x-accel-buffering"] == "no"
    assert all(part.startswith(b'data: {"') for part in response.content.split(b"\n\n")[:-1]) and response.content.endswith(b"\n\n")


def test_max_tokens_and_temperature_reach_the_model(server: LiveServer) -> None:
    cold = ask(server, message="Hello!", temperature=0, max_tokens=5, reasoning="low")
    hot = {ask(server, message="Write a story.", temperature=2, max_tokens=20, reasoning="low")["response"] for _ in range(4)}

    assert HELLO.startswith(cold["response"]) and cold["usage"]["completion_tokens"] == 5
    assert len(hot) > 1


@pytest.mark.parametrize("path", ["/chat/tiny", "/chat/tiny:latest", "/chat/TINY"])
def test_the_paths_model_goes_before_the_bodys(server: LiveServer, path: str) -> None:
    assert ask(server, path, message="Hello!", model="no-such", max_tokens=1)["model"] == "tiny"


def test_an_unknown_model_is_404_and_the_installed_ones_are_named(server: LiveServer) -> None:
    for response in (
        server.post("/chat", message="x", model="org/no:such"),
        server.post("/chat/org/no:such", message="x", model="tiny"),
        server.post("/chat", message="x", model=""),
        server.post("/chat", message="x", model="no", stream=True),
    ):
        assert response.status_code == 404 and "installed: tiny" in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "'message' is required"),
        ({"message": None}, "'message' takes a string"),
        ({"message": ["Hello"]}, "'message' takes a string"),
        ({"message": "x", "model": 1}, "'model' takes a string"),
        ({"message": "x", "max_tokens": 0}, "'max_tokens' takes an integer >= 1"),
        ({"message": "x", "max_tokens": 10**30}, "'max_tokens'"),
        ({"message": "x", "max_tokens": "5"}, "'max_tokens' takes an integer"),
        ({"message": "x", "temperature": 2.01}, "'temperature' takes a number <= 2.0"),
        ({"message": "x", "temperature": -1}, "'temperature' takes a number >= 0.0"),
        ({"message": "x", "reasoning": "much"}, "'reasoning'"),
        ({"message": "x", "stream": "yes"}, "'stream' takes true or false"),
        ({"message": "word " * 4000}, "2,048"),
        ({"message": "word " * 4000, "stream": True}, "2,048"),
    ],
)
def test_a_body_that_does_not_fit_is_400_and_names_the_field(server: LiveServer, body: dict[str, Any], named: str) -> None:
    for path in ("/chat", "/chat/tiny"):
        response = server.post(path, **body)

        assert response.status_code == 400, response.text
        assert list(response.json()) == ["detail"] and named in response.json()["detail"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'"x"', b'{"message": "\\ud800"}', b'{"message": "x", "temperature": 1e999}', b"\xff"]
)
def test_what_is_no_object_of_json_is_400(server: LiveServer, content: bytes) -> None:
    response = server.http.post("/chat", content=content)

    assert response.status_code == 400 and response.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/chat"), ("PUT", "/chat/tiny"), ("POST", "/models"), ("DELETE", "/models")])
def test_a_wrong_method_is_405_in_the_gateways_form(server: LiveServer, method: str, path: str) -> None:
    response = server.http.request(method, path)

    assert response.status_code == 405 and path in response.json()["detail"] and response.headers["allow"]


def test_models_are_listed_as_ollama_lists_them(server: LiveServer) -> None:
    listed = server.http.get("/models").json()

    assert_is(ModelList, listed)
    (tiny,) = listed["models"]
    assert tiny["name"] == tiny["model"] == "tiny" and tiny["size"] == 3_096_960 and tiny["modified_at"].endswith("Z")
    assert tiny["digest"].startswith("sha256-") and len(tiny["digest"]) == 7 + 64
    assert {
        key: tiny["details"][key] for key in ("parent_model", "format", "family", "families", "parameter_size", "quantization_level")
    } == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "5.05M",
        "quantization_level": "Q4_K_M",
    }


def test_a_client_that_leaves_stops_its_generation(endless: LiveServer) -> None:
    body = {"model": "endless", "message": "Write a very long story.", "stream": True}

    with httpx.stream("POST", f"{endless.url}/chat", json=body) as response:
        lines = response.iter_lines()  # a loose one would close the stream
        next(lines)
        assert endless.status("endless")["running"] == 1

    wait_until(lambda: endless.status("endless")["running"] == 0, "the generation of the client that left ended")
    wait_until(lambda: endless.status("endless")["requests"] == 0, "its request ended")
