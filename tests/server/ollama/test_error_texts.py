"""Ollama's sentences, which clients look for: the table of them, and where each of ours comes from."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from live_server import LiveServer, pause, wait_until
from ollama_calls import HELLO, OllamaCalls, ask, with_defaults

from myllm.errors import (
    Conflict,
    ContextLengthExceeded,
    InsufficientMemory,
    ModelLoadFailed,
    ModelNotFound,
    MyLLMError,
    QueueFull,
    RateLimited,
    WorkerDied,
)  # fmt: skip
from myllm.server.ollama.errors import describe, describe_midway, render_error, told_of

TALK = ask("Hello!")
LONG = "word " * 3000
TABLE: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "generate", {"model": "none", "prompt": "x"}, 404, "model 'none' not found"),
    ("POST", "chat", {"model": "none", "messages": TALK}, 404, "model 'none' not found"),
    ("POST", "show", {"model": "none"}, 404, "model 'none' not found"),
    ("DELETE", "delete", {"model": "none"}, 404, "model 'none' not found"),
    ("POST", "push", {"model": "none"}, 404, "model 'none' not found"),
    ("POST", "create", {"model": "new", "from": "none"}, 404, "model 'none' not found"),
    ("POST", "embed", {"model": "none", "input": "x"}, 404, 'model "none" not found, try pulling it first'),
    ("POST", "embeddings", {"model": "none", "prompt": "x"}, 404, 'model "none" not found, try pulling it first'),
    ("POST", "copy", {"source": "none", "destination": "x"}, 404, 'model "none" not found'),
    ("POST", "chat", {"messages": TALK}, 400, "model is required"),
    ("POST", "embeddings", {"prompt": "x"}, 400, "model is required"),
    ("POST", "show", {}, 400, "model is required"),
    ("POST", "push", {"name": ""}, 400, "model is required"),
    ("POST", "generate", {"prompt": "x"}, 404, "model '' not found"),
    ("POST", "embed", {"model": "", "input": "x"}, 404, "model '' not found"),
    ("POST", "generate", {"model": "a b", "prompt": "x"}, 400, "invalid model name"),
    ("POST", "chat", {"model": "../x", "messages": TALK}, 400, "invalid model name"),
    ("POST", "show", {"model": "x" * 300}, 400, "invalid model name"),
    ("POST", "pull", {"model": ""}, 400, "invalid model name"),
    ("POST", "create", {"model": "a b", "from": "tiny"}, 400, "invalid model name"),
    ("DELETE", "delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
    ("POST", "copy", {"source": "a b", "destination": "x"}, 400, 'source "a b" is invalid'),
    ("POST", "copy", {"source": "tiny", "destination": ""}, 400, 'destination "" is invalid'),
    ("POST", "chat", {"model": "tiny", "messages": TALK, "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
    ("POST", "generate", {"model": "none", "prompt": "x", "top_logprobs": -1}, 400, "top_logprobs must be between 0 and 20"),
    (
        "POST",
        "generate",
        {"model": "tiny", "prompt": "x", "raw": True, "system": "y"},
        400,
        "raw mode does not support template, system, or context",
    ),
    ("POST", "generate", {"model": "tiny", "prompt": "x", "options": {"num_ctx": "many"}}, 400, 'option "num_ctx" must be of type integer'),
    ("POST", "chat", {"model": "tiny", "messages": TALK, "options": {"top_p": []}}, 400, 'option "top_p" must be of type float32'),
    ("POST", "embed", {"model": "tiny", "input": "x", "options": {"use_mmap": 1}}, 400, 'option "use_mmap" must be of type boolean'),
    ("POST", "generate", {"model": "tiny", "prompt": "x", "options": {"stop": 1}}, 400, 'option "stop" must be of type array of strings'),
    (
        "POST",
        "chat",
        {"model": "tiny", "messages": TALK, "think": "x"},
        400,
        'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)',
    ),
    (
        "POST",
        "generate",
        {"model": "tiny", "prompt": "x", "images": ["aGk="]},
        400,
        "registry.ollama.ai/library/tiny:latest does not support vision",
    ),
    (
        "POST",
        "chat",
        {"model": "tiny", "messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
        400,
        "registry.ollama.ai/library/tiny:latest does not support vision",
    ),
    ("POST", "embed", {"model": "tiny", "input": [1]}, 400, "invalid input type"),
    ("POST", "embed", {"model": "tiny", "input": {"text": "x"}}, 400, "invalid input type"),
    ("POST", "embed", {"model": "tiny", "input": LONG, "truncate": False}, 400, "the input length exceeds the context length"),
    ("POST", "embeddings", {"model": "tiny", "prompt": LONG}, 400, "the input length exceeds the context length"),
    ("POST", "create", {"model": "new"}, 400, "neither 'from' or 'files' was specified"),
    ("POST", "me", {}, 401, "unauthorized"),
    ("POST", "nothing", {}, 404, "404 page not found"),
    ("GET", "chat", {}, 405, "405 method not allowed"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "words"), TABLE, ids=lambda value: str(value)[:40])
def test_a_refusal_has_ollamas_status_and_words(
    ollama: OllamaCalls, method: str, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    assert ollama.error(path, body, method) == (status, words)


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_is_the_same_whether_a_stream_was_asked_for(ollama: OllamaCalls, stream: bool) -> None:
    told = ollama.error("generate", {"model": "none", "prompt": "x", "stream": stream})

    assert told == (404, "model 'none' not found")


def test_a_body_that_is_not_there_is_missing(ollama: OllamaCalls) -> None:
    for path in ("generate", "chat", "embed", "embeddings", "show", "pull", "push", "create", "copy"):
        assert ollama.error(path, "  ") == (400, "missing request body")


def test_a_prompt_that_may_not_be_cut_is_refused_with_both_numbers(ollama: OllamaCalls) -> None:
    for body in ({"truncate": False}, {"shift": False}):
        status, words = ollama.error("chat", with_defaults({"messages": ask(LONG), **body}))

        assert status == 400 and words.startswith("the prompt is longer than the context length currently available to the model; ")
        assert "3,010 tokens" in words and "2,048" in words


def test_what_a_model_cannot_do_is_told_by_the_name_that_was_asked_for(ollama: OllamaCalls) -> None:
    blind = ollama.error("chat", {"model": "Tiny:latest", "messages": [{"role": "user", "content": "x", "images": ["aGk="]}]})

    assert blind == (400, "registry.ollama.ai/library/Tiny:latest does not support vision")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("chat", {"model": "bert", "messages": TALK}, '"bert" does not support chat'),
        ("chat", {"model": "bert", "messages": []}, '"bert" does not support chat'),
        ("generate", {"model": "bert:latest", "prompt": "x"}, '"bert:latest" does not support generate'),
        ("generate", {"model": "plain", "prompt": "x", "think": True}, '"plain" does not support thinking'),
        ("generate", {"model": "plain", "prompt": "x", "suffix": "y"}, "registry.ollama.ai/library/plain:latest does not support insert"),
        ("chat", {"model": "plain", "messages": TALK, "tools": [{}]}, "registry.ollama.ai/library/plain:latest does not support tools"),
    ],
)
def test_a_capability_that_a_model_lacks_is_named(own: OllamaCalls, path: str, body: dict[str, Any], words: str) -> None:
    assert own.error(path, body) == (400, words)


def test_a_model_that_is_too_large_for_memory_is_500_with_both_numbers(make_server: Callable[..., LiveServer]) -> None:
    calls = OllamaCalls(make_server(MYLLM_MEMORY_BUDGET="1MiB"))

    status, words = calls.error("chat", {"model": "tiny", "messages": TALK})

    assert status == 500 and words.startswith("Model requires more system memory (0.") and "than is available (0.0 GiB)" in words


def test_a_refused_tool_names_the_field(ollama: OllamaCalls) -> None:
    for field, value in (("tools", [{"type": "function"}]), ("format", "json"), ("format", {"type": "object"}), ("think", True)):
        status, words = ollama.error("chat", {"model": "tiny", "messages": TALK, field: value})

        assert status == 400 and f"'{field}' is not supported yet" in words


def test_what_asks_for_nothing_is_no_reason_to_refuse(ollama: OllamaCalls) -> None:
    answer = ollama.answer("chat", messages=TALK, tools=[], format="", think=False, keep_alive=None, images=None)

    assert answer["message"]["content"] == HELLO


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (QueueFull("512 wait"), 503, "server busy, please try again.  maximum pending requests exceeded"),
        (InsufficientMemory("Model requires more system memory (18.4 GiB)"), 500, "Model requires more system memory (18.4 GiB)"),
        (
            WorkerDied("SIGKILL"),
            500,
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
            "check ollama server logs for details: SIGKILL",
        ),
        (ContextLengthExceeded("9 of 8", param="input"), 400, "the input length exceeds the context length"),
        (
            ContextLengthExceeded("9 of 8", param="messages"),
            400,
            "the prompt is longer than the context length currently available to the model; 9 of 8",
        ),
        (ModelLoadFailed("corrupt"), 500, "corrupt"),
        (Conflict("taken"), 409, "taken"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_house_is_told_in_ollamas_words(error: MyLLMError, status: int, words: str) -> None:
    assert describe(error) == (status, words)


def test_after_the_first_line_only_our_own_failures_are_told_as_such() -> None:
    assert describe_midway(WorkerDied("SIGKILL")) == "an error was encountered while running the model: SIGKILL"
    assert describe_midway(RateLimited("60 a minute")) == "60 a minute"


def test_waiting_helps_against_a_full_queue() -> None:
    response = render_error(QueueFull("full", retry_after_s=5))

    assert response.headers["retry-after"] == "5" and json.loads(bytes(response.body)) == {"error": describe(QueueFull(""))[1]}


def test_a_name_in_the_words_is_quoted_as_go_quotes_it() -> None:
    with pytest.raises(ModelNotFound, match='model "a" not found'), told_of("a", "model {quoted} not found"):
        raise ModelNotFound("model 'a' not found; installed: tiny")


@pytest.mark.parametrize("path", ["chat", "generate"])
def test_a_worker_that_dies_midway_ends_the_stream_with_a_line_that_says_so(make_endless: Callable[..., LiveServer], path: str) -> None:
    server = make_endless()
    story = with_defaults({"model": "endless", "messages": ask("Write a very long story."), "prompt": "Write a very long story."})
    lines: list[dict[str, Any]] = []
    with server.http.stream("POST", f"/ollama/api/{path}", json=story) as response:
        for line in response.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 5:
                os.kill(server.worker_pids()[0], signal.SIGKILL)

    assert lines[-1]["done"] is True and lines[-1]["done_reason"] == "error"
    assert lines[-1]["error"].startswith("an error was encountered while running the model: ") and "SIGKILL" in lines[-1]["error"]
    assert not any(line["done"] for line in lines[:-1])


def test_a_full_queue_is_503(make_server: Callable[..., LiveServer]) -> None:
    server = make_server("--model", "tiny", MYLLM_PARALLEL="1", MYLLM_QUEUE_SIZE="1")
    calls = OllamaCalls(server)
    wait_until(lambda: server.status().get("status") == "loaded", "the model is loaded")
    pause(server.worker_pids()[0])  # so that nothing is answered while others come
    story = with_defaults({"messages": TALK})
    asking = [threading.Thread(target=calls.send, args=("chat", story), daemon=True) for _ in range(2)]
    for thread in asking:
        thread.start()
    wait_until(lambda: server.status()["requests"] == 2, "both are at the worker")

    told = calls.error("chat", story)
    os.kill(server.worker_pids()[0], signal.SIGCONT)
    for thread in asking:
        thread.join()

    assert told == (503, "server busy, please try again.  maximum pending requests exceeded")
