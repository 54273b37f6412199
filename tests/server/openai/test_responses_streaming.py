"""`/v1/responses` as a stream: the events that OpenAI's SDKs build a response from, and what is stored of one that broke."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_server import LiveServer, wait_until
from typed_answers import assert_is

from myllm.server.openai.responses_answers import ResponseEvent

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
STORY = "Write a very long story."
Data = dict[str, Any]


def stream(server: LiveServer, asked: str, **fields: Any) -> Iterator[Data]:
    """The events as they come, each under its name and of its type; their numbers leave nothing out."""
    body = {"model": "tiny", "temperature": 0, "input": asked, "stream": True} | fields
    name, number = "", 0
    with server.http.stream("POST", "/v1/responses", json=body) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                event: Data = json.loads(line.removeprefix("data: "))
                assert_is(ResponseEvent, event)
                assert (event["type"], event["sequence_number"]) == (name, number)
                number += 1
                yield event


def first_text(events: Iterator[Data]) -> Data:
    return next(event for event in events if event["type"] == "response.output_text.delta")


def once_kept(server: LiveServer, id: str) -> Data:
    """The stored response, as soon as it is."""
    kept: Data = wait_until(
        lambda: [got.json() for got in [server.http.get(f"/v1/responses/{id}")] if got.status_code == 200], "it was kept"
    )[0]
    return kept


def test_the_events_come_in_openais_order(server: LiveServer) -> None:
    events = list(stream(server, "Hello!"))

    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]


def test_the_pieces_the_parts_and_the_response_hold_the_same_text(server: LiveServer) -> None:
    events = list(stream(server, "Hello!"))

    assert "".join(event["delta"] for event in events[4:-4]) == HELLO
    done, part, item, last = events[-4:]
    assert done["text"] == part["part"]["text"] == item["item"]["content"][0]["text"] == HELLO
    assert last["response"]["output"] == [item["item"]] and {event["item_id"] for event in events[3:-2]} == {item["item"]["id"]}


def test_a_response_begins_without_an_answer_and_ends_with_the_usage(server: LiveServer) -> None:
    events = list(stream(server, "Hello!", metadata={"a": "b"}))

    begun, ended = events[0]["response"], events[-1]["response"]
    assert (begun["status"], begun["output"], begun["usage"]) == ("in_progress", [], None)
    assert (ended["status"], ended["usage"]["output_tokens"]) == ("completed", 24)
    assert begun["id"] == ended["id"] and begun["metadata"] == ended["metadata"] == {"a": "b"}


def test_what_is_stored_is_what_the_last_event_told(server: LiveServer) -> None:
    last = list(stream(server, "My name is Ada."))[-1]["response"]

    assert server.http.get(f"/v1/responses/{last['id']}").json() == last
    next_one = list(stream(server, "What is my name?", previous_response_id=last["id"]))[-4]
    assert next_one["text"] == "Your name is Ada."


def test_a_stream_that_is_not_to_be_stored_is_not(server: LiveServer) -> None:
    last = list(stream(server, "Hello!", store=False))[-1]["response"]

    assert server.http.get(f"/v1/responses/{last['id']}").status_code == 404


def test_an_answer_as_long_as_it_may_be_ends_as_incomplete(server: LiveServer) -> None:
    last = list(stream(server, "Hello!", max_output_tokens=3))[-1]

    assert last["type"] == "response.incomplete" and last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_log_probabilities_come_with_their_text(server: LiveServer) -> None:
    events = list(stream(server, "Hello!", include=["message.output_text.logprobs"], top_logprobs=1))

    deltas = events[4:-4]
    assert all("".join(token["token"] for token in event["logprobs"]) == event["delta"] for event in deltas)
    assert [token for event in deltas for token in event["logprobs"]] == events[-4]["logprobs"]


def test_what_is_wrong_with_a_request_is_told_by_a_status_before_the_stream(server: LiveServer) -> None:
    response = server.post("/v1/responses", model="tiny", input="word " * 3000, stream=True)

    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


def test_of_a_response_whose_client_left_what_was_said_is_kept(make_endless: Callable[..., LiveServer]) -> None:
    server = make_endless()
    events = stream(server, STORY, model="endless")
    id = next(events)["response"]["id"]
    said = first_text(events)["delta"]

    events.close()  # type: ignore[attr-defined]

    kept = once_kept(server, id)
    assert kept["status"] == "cancelled" and kept["output"][0]["content"][0]["text"].startswith(said)
    wait_until(lambda: server.status("endless")["running"] == 0, "the sequence was freed")
    assert server.http.get("/api/sessions").json()["sessions"][0]["num_messages"] == 2


@pytest.mark.parametrize("how", ["the worker dies", "the model is unloaded"])
def test_a_stream_that_breaks_ends_with_a_failed_response_which_is_kept(make_endless: Callable[..., LiveServer], how: str) -> None:
    server = make_endless(MYLLM_DRAIN_TIMEOUT_S="0.01")
    events = stream(server, STORY, model="endless")
    first_text(events)

    if how == "the worker dies":
        os.kill(server.worker_pids()[0], signal.SIGKILL)
    else:
        server.post("/api/models/endless/unload")
    last = list(events)[-1]

    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    error = last["response"]["error"]
    assert error["code"] == "server_error" and ("SIGKILL" if how == "the worker dies" else "unloaded") in error["message"]
    kept = once_kept(server, last["response"]["id"])
    assert kept["status"] == "failed" and kept["error"] == error
