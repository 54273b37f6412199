"""How long a model stays: by each spelling of a duration, and when it is loaded or unloaded by name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from live_server import wait_until
from ollama_calls import HELLO, OllamaCalls, ask, with_defaults


@pytest.fixture
def idle(own: OllamaCalls) -> Iterator[OllamaCalls]:
    """Nothing is loaded, before and after."""
    own.unload_all()
    yield own
    own.unload_all()


def seconds_left(calls: OllamaCalls) -> float:
    line = calls.loaded()
    assert line is not None
    return (datetime.fromisoformat(line["expires_at"]) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize(
    ("written", "stays_s"),
    [
        ("10m", 600),
        ("1h30m", 5400),
        (120, 120),
        (90.5, 90.5),
        ("45", 45),
        ("100000ms", 100),
        ("-1m", 2**63 / 1e9),
        (-1, 2**63 / 1e9),
        (1e8, 1e8),
    ],
)
def test_a_duration_is_how_long_it_stays(own: OllamaCalls, written: Any, stays_s: float) -> None:
    answer = own.send("generate", {"model": "tiny", "keep_alive": written}).json()

    assert answer["done_reason"] == "load"
    assert stays_s - 5 < seconds_left(own) <= stays_s


def test_what_a_request_does_not_say_stays_as_it_was(own: OllamaCalls) -> None:
    own.send("generate", {"model": "tiny", "keep_alive": "20m"})
    own.answer("chat", messages=ask("Hello!"))
    own.send("generate", {"model": "tiny", "keep_alive": None})

    assert 1190 < seconds_left(own) <= 1200


def test_a_new_load_stays_for_five_minutes(idle: OllamaCalls) -> None:
    idle.send("chat", {"model": "tiny"})

    assert 295 < seconds_left(idle) <= 300


@pytest.mark.parametrize("path", ["generate", "chat", "embed"])
def test_zero_with_something_to_do_unloads_afterwards(idle: OllamaCalls, path: str) -> None:
    body = {"prompt": "Hello!", "messages": ask("Hello!"), "input": "Hello!"}

    assert idle.send(path, with_defaults(body | {"keep_alive": 0, "stream": False})).status_code == 200
    wait_until(lambda: idle.loaded() is None, "it is unloaded")


@pytest.mark.parametrize(("path", "nothing"), [("generate", {}), ("generate", {"prompt": ""}), ("chat", {}), ("chat", {"messages": []})])
@pytest.mark.parametrize("zero", [0, "0", "0s", 0.0])
def test_zero_with_nothing_to_do_unloads_at_once(idle: OllamaCalls, path: str, nothing: dict[str, Any], zero: Any) -> None:
    answers = [idle.send(path, {"model": "tiny", **nothing, **how}).json() for how in ({}, {"keep_alive": zero}, {"keep_alive": zero})]

    assert [answer["done_reason"] for answer in answers] == ["load", "unload", "unload"]
    assert idle.loaded() is None


def test_a_model_in_use_is_unloaded_when_its_last_answer_is_done(idle: OllamaCalls) -> None:
    story = with_defaults({"model": "endless", "prompt": "Once", "options": {"num_ctx": 200_000}})
    with idle.server.http.stream("POST", "/ollama/api/generate", json=story) as response:
        stream = response.iter_lines()
        next(stream)
        unload = idle.send("generate", {"model": "endless", "keep_alive": 0}).json()
        in_use = idle.loaded("endless:latest")
        following = [next(stream) for _ in range(100)]

    assert unload["done_reason"] == "unload" and in_use is not None
    assert all('"done":false' in line for line in following)
    wait_until(lambda: idle.loaded("endless:latest") is None, "it is unloaded")


def test_a_request_loads_what_was_unloaded(idle: OllamaCalls) -> None:
    answer = idle.answer("chat", messages=ask("Hello!"))

    assert answer["message"]["content"] == HELLO
    assert answer["load_duration"] > 10_000_000  # a process was started


def test_a_load_is_one_object_also_where_a_stream_was_asked_for(own: OllamaCalls) -> None:
    response = own.send("generate", {"model": "tiny", "stream": True})

    assert response.headers["content-type"] == "application/json; charset=utf-8" and response.json()["done"] is True


@pytest.mark.parametrize("written", ["5x", "", "m", True, [], {}, "1" * 50, 10**30, "nan"])
def test_what_is_no_duration_is_refused(ollama: OllamaCalls, written: Any) -> None:
    for path in ("generate", "chat", "embed", "embeddings"):
        status, words = ollama.error(path, {"model": "tiny", "keep_alive": written})

        assert status == 400 and "'keep_alive'" in words


def test_an_unknown_model_is_not_unloaded(ollama: OllamaCalls) -> None:
    assert ollama.error("generate", {"model": "none", "keep_alive": 0}) == (404, "model 'none' not found")
