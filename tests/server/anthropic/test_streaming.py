"""`/v1/messages` as a stream: the events that Anthropic's SDKs build a message from, in their order."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from live_server import LiveServer, pause, wait_until

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
STORY = "Write a very long story."
ENDLESS = {"model": "endless", "max_tokens": 1_000_000}


def body_of(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 100, "temperature": 0, "messages": [{"role": "user", "content": content}], **fields}


def stream(server: LiveServer, content: str, **fields: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events' names and data, as they come."""
    with server.http.stream("POST", "/v1/messages", json=body_of(content, stream=True, **fields)) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        yield from events_of(response)


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def text_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta")


def test_the_events_come_in_anthropics_order_under_their_names(server: LiveServer) -> None:
    events = list(stream(server, "Hello!"))

    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert all(data["type"] == name for name, data in events)


def test_the_first_event_is_the_message_without_its_content(server: LiveServer) -> None:
    _, start = next(stream(server, "Hello!"))

    message = start["message"]
    assert message.pop("id").startswith("msg_") and message.pop("usage")["input_tokens"] == 12
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def test_the_last_but_one_event_tells_the_end_and_the_whole_usage(server: LiveServer) -> None:
    whole = server.post("/v1/messages", **body_of("Count to 10.", stop_sequences=["5, 6"])).json()

    events = list(stream(server, "Count to 10.", stop_sequences=["5, 6"]))

    _, end = events[-2]
    assert end["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "5, 6"}
    assert sum(end["usage"].values()) == sum(whole["usage"].values())
    assert text_of(events) == whole["content"][0]["text"] == "1, 2, 3, 4, "


def test_the_streamed_text_equals_the_text_without_streaming(server: LiveServer) -> None:
    question = "Repeat after me: hello 😀 world 你好"

    streamed = text_of(list(stream(server, question)))

    assert streamed == server.post("/v1/messages", **body_of(question)).json()["content"][0]["text"]
    assert "�" not in streamed


def test_a_stream_has_its_request_id_in_the_header(server: LiveServer) -> None:
    response = server.post("/v1/messages", **body_of("Hello!", stream=True, max_tokens=1))

    assert response.headers["request-id"].startswith("req_")


def test_what_is_wrong_with_a_request_is_told_by_a_status_before_the_stream(server: LiveServer) -> None:
    response = server.post("/v1/messages", **body_of("word " * 3000, stream=True))

    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"


def test_a_client_that_leaves_stops_its_generation(endless: LiveServer) -> None:
    events = stream(endless, STORY, **ENDLESS)

    assert next(name for name, _ in events if name == "content_block_delta")
    assert endless.status("endless")["running"] == 1
    events.close()  # type: ignore[attr-defined]

    wait_until(lambda: endless.status("endless")["running"] == 0, "the sequence was freed")


def test_silence_is_filled_with_pings_and_a_dead_worker_ends_the_stream_with_an_error_event(
    make_endless: Callable[..., LiveServer],
) -> None:
    server = make_endless(MYLLM_KEEPALIVE_COMMENT_S="0.05")
    events = stream(server, STORY, **ENDLESS)
    next(name for name, _ in events if name == "content_block_delta")
    (pid,) = server.worker_pids()

    pause(pid)
    ping = next(data for name, data in events if name == "ping")
    os.kill(pid, signal.SIGKILL)
    name, error = list(events)[-1]

    assert ping == {"type": "ping"}
    assert name == error["type"] == "error" and error["error"]["type"] == "api_error" and "SIGKILL" in error["error"]["message"]
    assert error["request_id"].startswith("req_")


def test_an_answer_whose_model_is_unloaded_ends_with_an_error_event(make_endless: Callable[..., LiveServer]) -> None:
    server = make_endless(MYLLM_DRAIN_TIMEOUT_S="0.01")
    events = stream(server, STORY, **ENDLESS)
    next(name for name, _ in events if name == "content_block_delta")

    server.post("/api/models/endless/unload")
    name, error = list(events)[-1]

    assert name == "error" and error["error"]["type"] == "overloaded_error" and "unloaded" in error["error"]["message"]
