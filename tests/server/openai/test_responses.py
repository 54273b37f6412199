"""`/v1/responses` against the running server: answers, conversations that go on, what is stored and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from typed_answers import assert_is

from myllm.keys import KeyStore
from myllm.server.openai.responses_answers import InputItems, ResponseAnswer

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
NAME = "My name is Brunhilde."
WHO = "What is my name?"


def ask(server: LiveServer, asked: Any, path: str = "/v1/responses", **fields: Any) -> httpx.Response:
    """At temperature 0 of tiny, unless told otherwise."""
    return server.post(path, **{"model": "tiny", "temperature": 0, "input": asked} | fields)


def answer_to(server: LiveServer, asked: Any, **fields: Any) -> dict[str, Any]:
    response = ask(server, asked, **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_is(ResponseAnswer, answer)
    return answer


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["output"][0]["content"][0]["text"]
    return text


def items_of(server: LiveServer, id: str, query: str = "") -> dict[str, Any]:
    items: dict[str, Any] = server.http.get(f"/v1/responses/{id}/input_items{query}").json()
    assert_is(InputItems, items)
    return items


def texts_of(items: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in items["data"]]


def test_a_response_says_what_was_asked_and_what_came(server: LiveServer) -> None:
    answer = answer_to(server, "Hello!", metadata={"topic": "tests"}, user="u-1", instructions="Be brief.", max_output_tokens=99)

    assert answer["id"].startswith("resp_") and answer["object"] == "response" and answer["model"] == "tiny"
    assert (answer["status"], answer["error"], answer["incomplete_details"]) == ("completed", None, None)
    told = {name: answer[name] for name in ("metadata", "user", "instructions", "max_output_tokens", "temperature", "top_p", "store")}
    assert told == {
        "metadata": {"topic": "tests"},
        "user": "u-1",
        "instructions": "Be brief.",
        "max_output_tokens": 99,
        "temperature": 0,
        "top_p": 1,
        "store": True,
    }
    (item,) = answer["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed") and item["id"].startswith("msg_")
    assert item["content"] == [{"type": "output_text", "text": HELLO, "annotations": [], "logprobs": []}]


def test_usage_is_counted_by_the_engine(server: LiveServer) -> None:
    usage = answer_to(server, "Hello!")["usage"]

    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (12, 24, 36)
    assert 0 <= usage["input_tokens_details"]["cached_tokens"] < 12 and usage["output_tokens_details"] == {"reasoning_tokens": 0}


@pytest.mark.parametrize(
    "input",
    [
        "Hello!",
        [{"role": "user", "content": "Hello!"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]}],
    ],
    ids=["a string", "a message", "parts"],
)
def test_input_comes_in_several_forms(server: LiveServer, input: Any) -> None:
    assert text_of(answer_to(server, input)) == HELLO


def test_a_whole_conversation_may_be_sent(server: LiveServer) -> None:
    first = answer_to(server, NAME)
    history = [{"role": "user", "content": NAME}, *first["output"], {"role": "user", "content": WHO}]

    assert text_of(answer_to(server, history)) == "Your name is Brunhilde."


def test_max_output_tokens_makes_a_response_incomplete(server: LiveServer) -> None:
    answer = answer_to(server, "Hello!", max_output_tokens=3)

    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete" and answer["usage"]["output_tokens"] == 3


def test_log_probabilities_come_where_they_are_included(server: LiveServer) -> None:
    answer = answer_to(server, "Hello!", include=["message.output_text.logprobs"], top_logprobs=2)

    logprobs = answer["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in logprobs) == HELLO
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in logprobs)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2, "top_k": 1},
        {"temperature": 2, "top_p": 1e-9},
        {"temperature": 2, "min_p": 1, "seed": -1},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"reasoning": {"effort": "none"}, "background": False, "include": ["reasoning.encrypted_content"]},
        {"reasoning": {"effort": None, "summary": None, "mode": None}, "max_tool_calls": None},  # what an answer says of itself
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "service_tier": "auto", "truncation": "disabled"},
        {"prompt_cache_key": "k", "safety_identifier": "s", "keep_alive": "5m"},
        {"conversation": None, "prompt": None, "a_field_of_next_year": 1},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_fields_that_lead_to_the_same_answer_are_taken(server: LiveServer, fields: dict[str, Any]) -> None:
    assert text_of(answer_to(server, "Hello!", **fields)) == HELLO


def test_a_stop_string_ends_an_answer(server: LiveServer) -> None:
    assert text_of(answer_to(server, "Count to 10.", stop="5, 6")) == "1, 2, 3, 4, "


def test_a_response_goes_on_from_the_previous_one(server: LiveServer) -> None:
    first = answer_to(server, NAME)

    second = answer_to(server, WHO, previous_response_id=first["id"])

    assert text_of(second) == "Your name is Brunhilde." and second["previous_response_id"] == first["id"]


def test_a_conversation_branches_where_two_go_on_from_one(server: LiveServer) -> None:
    root = answer_to(server, NAME)
    sums = answer_to(server, "What is 2 + 2?", previous_response_id=root["id"])

    branch = answer_to(server, WHO, previous_response_id=root["id"])

    assert texts_of(items_of(server, branch["id"], "?order=asc")) == [NAME, text_of(root), WHO]
    assert texts_of(items_of(server, sums["id"], "?order=asc")) == [NAME, text_of(root), "What is 2 + 2?"]


def test_instructions_are_not_carried_over(server: LiveServer) -> None:
    first = answer_to(server, "What is the secret word?", instructions="The secret word is zumbrek.")

    second = answer_to(server, "What is the secret word?", previous_response_id=first["id"])

    assert "zumbrek" in text_of(first)
    assert second["instructions"] is None and "system" not in [item["role"] for item in items_of(server, second["id"])["data"]]
    prompt_alone = answer_to(server, "What is the secret word?")["usage"]["input_tokens"]
    assert first["usage"]["input_tokens"] > prompt_alone


def test_many_may_go_on_from_one_at_once(server: LiveServer) -> None:
    root = answer_to(server, NAME)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: answer_to(server, f"What is {i} + 1?", previous_response_id=root["id"]), range(6)))

    assert [texts_of(items_of(server, answer["id"]))[0] for answer in answers] == [f"What is {i} + 1?" for i in range(6)]
    assert all(len(items_of(server, answer["id"])["data"]) == 3 for answer in answers)


def test_a_stored_response_is_read_as_it_was_answered_also_after_a_restart(make_server: Callable[..., LiveServer]) -> None:
    server = make_server()
    answer = answer_to(server, NAME, metadata={"a": "b"}, include=["message.output_text.logprobs"])

    server.restart()

    assert server.http.get(f"/v1/responses/{answer['id']}").json() == answer
    assert text_of(answer_to(server, WHO, previous_response_id=answer["id"])) == "Your name is Brunhilde."


def test_a_response_that_is_not_to_be_stored_leaves_nothing(server: LiveServer) -> None:
    root = answer_to(server, NAME)
    before = server.http.get("/api/sessions").json()

    answer = answer_to(server, WHO, previous_response_id=root["id"], store=False)

    assert text_of(answer) == "Your name is Brunhilde." and answer["store"] is False
    assert server.http.get(f"/v1/responses/{answer['id']}").status_code == 404
    assert server.http.get("/api/sessions").json() == before


def test_a_refused_request_leaves_nothing(server: LiveServer) -> None:
    root = answer_to(server, NAME)
    before = server.http.get("/api/sessions").json()

    refused = ask(server, "word " * 3000, previous_response_id=root["id"])

    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "input" and "2,048" in refused.json()["error"]["message"]
    assert server.http.get("/api/sessions").json() == before


def test_a_conversation_is_a_session_and_may_go_on_as_one(server: LiveServer) -> None:
    first = answer_to(server, "My name is Ludmila.")
    (session,) = server.http.get("/api/sessions?limit=1").json()["sessions"]

    native = server.chat(WHO, session_id=session["id"])
    branch = answer_to(server, WHO, previous_response_id=first["id"])

    assert native["message"]["content"] == text_of(branch) == "Your name is Ludmila."
    assert server.http.get(f"/api/sessions/{session['id']}").json()["num_messages"] == 4
    (fork,) = server.http.get("/api/sessions?limit=1").json()["sessions"]
    assert fork["id"] != session["id"] and fork["num_messages"] == 4


def test_a_deleted_response_is_gone_and_nothing_goes_on_from_it(server: LiveServer) -> None:
    answer = answer_to(server, NAME)
    (session,) = server.http.get("/api/sessions?limit=1").json()["sessions"]

    deleted = server.http.delete(f"/v1/responses/{answer['id']}")

    assert deleted.json() == {"id": answer["id"], "object": "response", "deleted": True}
    assert server.http.get(f"/v1/responses/{answer['id']}").status_code == 404
    assert ask(server, WHO, previous_response_id=answer["id"]).json()["error"]["param"] == "previous_response_id"
    assert server.http.get(f"/api/sessions/{session['id']}").status_code == 404


def test_input_items_are_all_of_the_conversation_newest_first(server: LiveServer) -> None:
    first = answer_to(server, [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": NAME}])
    second = answer_to(server, WHO, previous_response_id=first["id"])

    items = items_of(server, second["id"])

    assert [item["role"] for item in items["data"]] == ["user", "assistant", "user", "developer"]
    assert [item["content"][0]["type"] for item in items["data"]] == ["input_text", "output_text", "input_text", "input_text"]
    assert (items["first_id"], items["last_id"], items["has_more"]) == (items["data"][0]["id"], items["data"][-1]["id"], False)


def test_input_items_come_in_pages(server: LiveServer) -> None:
    answer = answer_to(server, [{"role": "user", "content": text} for text in "abcde"])

    first = items_of(server, answer["id"], "?order=asc&limit=2")
    second = items_of(server, answer["id"], f"?order=asc&limit=2&after={first['last_id']}")
    third = items_of(server, answer["id"], f"?order=asc&limit=2&after={second['last_id']}")
    none = items_of(server, answer["id"], f"?order=asc&after={third['last_id']}")

    assert [texts_of(page) for page in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]
    assert (none["data"], none["first_id"]) == ([], None)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_none"])
def test_what_no_page_can_be_is_400(server: LiveServer, query: str) -> None:
    answer = answer_to(server, "Hello!")

    response = server.http.get(f"/v1/responses/{answer['id']}/input_items?{query}")

    assert response.status_code == 400 and response.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("id", ["none", "resp_", "%00", "..%2F..", "x" * 5000])
@pytest.mark.parametrize(("method", "below"), [("GET", ""), ("DELETE", ""), ("GET", "/input_items")])
def test_a_response_that_there_is_not_is_404(server: LiveServer, method: str, below: str, id: str) -> None:
    response = server.http.request(method, f"/v1/responses/{id}{below}")

    assert response.status_code == 404 and response.json()["error"]["type"] == "invalid_request_error"


def test_a_history_too_long_is_refused_or_loses_its_oldest_turns(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(MYLLM_CONTEXT_SIZE="256")
    turns = [{"role": role, "content": f"{role} says {i}"} for i in range(30) for role in ("user", "assistant")]
    input = [*turns, {"role": "user", "content": "What is the secret word?"}]

    refused = ask(server, input, instructions="The secret word is zumbrek.")
    answer = answer_to(server, input, instructions="The secret word is zumbrek.", truncation="auto")

    assert refused.json()["error"]["code"] == "context_length_exceeded" and refused.json()["error"]["param"] == "input"
    assert text_of(answer) == "The secret word is zumbrek."
    assert 0 < answer["truncated_messages"] < 60 and answer["usage"]["input_tokens"] <= 192
    assert server.http.get("/api/sessions?limit=1").json()["sessions"][0]["num_messages"] == 62


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, dict[str, dict[str, str]]]]:
    """A server with keys, and the headers of two users and an admin."""
    home: Path = tmp_path_factory.mktemp("home")
    with closing(KeyStore(home / "keys.db")) as store:
        secrets = {"ada": store.create("ada"), "eve": store.create("eve"), "boss": store.create("boss", scope="admin")}
    live = LiveServer(home)
    yield live, {name: {"authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
    live.stop()


def test_a_response_is_seen_by_the_key_that_asked_for_it_and_by_admins(locked: tuple[LiveServer, dict[str, dict[str, str]]]) -> None:
    server, headers = locked
    body = {"model": "tiny", "input": NAME, "temperature": 0}
    id = server.http.post("/v1/responses", json=body, headers=headers["ada"]).json()["id"]

    seen = {name: server.http.get(f"/v1/responses/{id}", headers=headers[name]).status_code for name in headers}
    goes_on = {
        name: server.http.post("/v1/responses", json=body | {"previous_response_id": id}, headers=headers[name]).status_code
        for name in headers
    }
    deleted = server.http.delete(f"/v1/responses/{id}", headers=headers["eve"])

    assert seen == goes_on == {"ada": 200, "eve": 404, "boss": 200}
    assert deleted.status_code == 404 and server.http.get(f"/v1/responses/{id}/input_items", headers=headers["eve"]).status_code == 404


def test_a_service_prefix_has_responses_too(server: LiveServer) -> None:
    answer = ask(server, None, "/chat/v1/responses", payload={"model": "tiny", "input": "Hello!", "temperature": 0})
    refused = ask(server, 7, "/chat/v1/responses")

    assert text_of(answer.json()) == HELLO
    assert refused.json()["error"]["type"] == "BadRequestError"


REFUSED = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": ["everything"]}, "include[0]"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"metadata": {"k": "v" * 513}}, "metadata"),
    ({"metadata": {str(i): "v" for i in range(17)}}, "metadata"),
    ({"metadata": {"k": 7}}, "metadata"),
    ({"truncation": "some"}, "truncation"),
    ({"store": "yes"}, "store"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"max_tool_calls": 1}, "max_tool_calls"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"keep_alive": "soon"}, "keep_alive"),
    ({"seed": 2**64}, "seed"),
    ({"user": "u" * 513}, "user"),
    ({"previous_response_id": 7}, "previous_response_id"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[f"{param}-{at}" for at, (_, param) in enumerate(REFUSED)])
def test_what_cannot_be_taken_is_400_and_named(server: LiveServer, fields: dict[str, Any], param: str) -> None:
    response = ask(server, "Hello!", **fields)

    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"] or "").startswith(param) and param in error["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"input": "\\ud800"}', "[" * 200, "\x00", '{"temperature": 1e999}', "NaN"])
def test_a_body_that_is_no_request_is_400(server: LiveServer, body: str) -> None:
    response = server.http.post("/v1/responses", content=body)

    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"
