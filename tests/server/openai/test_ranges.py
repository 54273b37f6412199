"""What a field takes and what it does not: ranges, null, fields that are known and not supported, fields that are unknown."""

from __future__ import annotations

import re
from typing import Any

import pytest
from openai_calls import HELLO, Calls, asked

from myllm.server.openai.bodies import ChatBody, CompletionBody

CHAT, COMPLETIONS = "/chat/completions", "/completions"
BODIES: dict[str, dict[str, Any]] = {CHAT: asked("Hello!"), COMPLETIONS: {"prompt": "Once upon a time"}}
both = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


@pytest.mark.parametrize(
    ("path", "name", "values"),
    [
        (path, name, values)
        for path in (CHAT, COMPLETIONS)
        for name, values in {
            "temperature": [-0.1, 2.1, "1", [1]],
            "top_p": [-0.1, 1.1, "1"],
            "top_k": [-2, 1.5, "1", 2**40],
            "min_p": [-0.1, 1.1],
            "max_tokens": [0, -1, 1.5, "1", True, 2**40, 10**30],
            "max_completion_tokens": [0, "1"],
            "frequency_penalty": [-2.1, 2.1, "1"],
            "presence_penalty": [-2.1, 2.1, "1"],
            "repeat_penalty": [-1, "1"],
            "repetition_penalty": [-1, "1"],
            "n": [0, 17, "1"],
            "best_of": [0, 17, "1"],
            "seed": ["1", 1.5, 10**30],
            "stream": ["true", 1],
            "stream_options": [True, {"include_usage": 1}],
            "ignore_eos": ["yes"],
            "keep_alive": ["soon", [1]],
            "user": [1, "x" * 600],
            "stop": [1, {"a": 1}, [1]],
        }.items()
    ]
    + [
        (CHAT, "top_logprobs", [21, -1, "1"]),
        (CHAT, "logprobs", [21, -1, "1"]),
        (CHAT, "chat_template_kwargs", [[1], "a"]),
        (CHAT, "session_id", [1, "a b", "", "-x"]),
        (COMPLETIONS, "logprobs", [21, -1, True, "1"]),
        (COMPLETIONS, "echo", [1, "true"]),
        (COMPLETIONS, "suffix", [1]),
    ],
)
def test_a_value_out_of_range_is_refused_and_named(v1: Calls, path: str, name: str, values: list[Any]) -> None:
    for value in values:
        error = v1.error(path, **BODIES[path] | {name: value})

        assert error["type"] == "invalid_request_error" and re.split(r"[.\[]", error["param"])[0] == name, error
        assert "session" in error["message"] if name == "session_id" else name in error["message"]


@both
def test_null_is_as_good_as_nothing(v1: Calls, path: str) -> None:
    body = ChatBody if path == CHAT else CompletionBody
    names = set(body.__struct_fields__) - {"model", "max_completion_tokens", *BODIES[path]}

    answer = v1.whole(path, **BODIES[path], **dict.fromkeys(names), max_completion_tokens=2)

    assert answer["usage"]["completion_tokens"] == 2


def test_numbers_that_are_none_are_refused(v1: Calls) -> None:
    for written in ("NaN", "1e999", "-1e999", "Infinity"):
        body = f'{{"model": "tiny", "prompt": "x", "temperature": {written}}}'
        response = v1.server.http.post("/v1/completions", content=body)

        assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("response_format", {"type": "json_object"}),
        ("reasoning_effort", "high"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("store", True),
        ("verbosity", "low"),
    ],
)
def test_what_is_not_supported_yet_is_refused_by_name(v1: Calls, field: str, value: Any) -> None:
    error = v1.error(CHAT, **BODIES[CHAT], **{field: value})

    assert error["param"] == field and "not supported yet" in error["message"]


def test_what_the_official_clients_send_without_meaning_it_passes(v1: Calls) -> None:
    harmless: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "reasoning_effort": "none",
        "modalities": ["text"],
        "store": False,
        "parallel_tool_calls": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "something_new": {"deep": [1, 2]},
    }

    assert v1.say(**harmless) == HELLO


@pytest.mark.parametrize("field", ["session_id", "messages"])
def test_what_belongs_to_chats_is_refused_for_completions(v1: Calls, field: str) -> None:
    assert v1.error(COMPLETIONS, **BODIES[COMPLETIONS], **{field: "x"})["param"] == field
