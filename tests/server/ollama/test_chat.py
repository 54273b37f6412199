from __future__ import annotations

import pytest
from ollama_calls import HELLO, OllamaCalls, ask


def test_a_history_is_remembered(ollama: OllamaCalls) -> None:
    messages = [*ask("My name is Brunhilde."), {"role": "assistant", "content": "Nice to meet you, Brunhilde!"}, *ask("What is my name?")]

    assert ollama.answer("chat", messages=messages)["message"] == {"role": "assistant", "content": "Your name is Brunhilde."}


def test_roles_are_read_in_any_case(ollama: OllamaCalls) -> None:
    messages = [{"role": "SYSTEM", "content": "The secret word is zumbrek."}, {"role": "User", "content": "What is the secret word?"}]

    assert ollama.answer("chat", messages=messages)["message"]["content"] == "The secret word is zumbrek."


def test_a_role_that_nobody_has_is_refused_by_its_place(ollama: OllamaCalls) -> None:
    status, words = ollama.error("chat", {"model": "tiny", "messages": [*ask("x"), {"role": "alien", "content": "x"}]})

    assert status == 400 and "'messages[1].role'" in words and "assistant" in words


def test_an_answer_that_was_begun_is_gone_on_with(ollama: OllamaCalls) -> None:
    messages = [*ask("Hello!"), {"role": "assistant", "content": HELLO[:17]}]

    answer = ollama.answer("chat", messages=messages)

    assert HELLO[:17] + answer["message"]["content"] == HELLO


def test_calls_and_results_of_tools_in_a_history_are_understood(ollama: OllamaCalls) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages = [
        {"role": "system", "content": "You can call tools."},
        *ask("What is the weather in Paris?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny, 21 degrees"},
    ]

    assert ollama.answer("chat", messages=messages)["message"]["content"] == "The weather in Paris is sunny, 21 degrees."


@pytest.mark.parametrize("call", [{}, {"function": {}}, {"function": {"name": "f", "arguments": [1]}}, {"function": {"name": 1}}])
def test_a_call_that_is_none_is_refused_by_its_place(ollama: OllamaCalls, call: object) -> None:
    status, words = ollama.error("chat", {"model": "tiny", "messages": [{"role": "assistant", "tool_calls": [call]}]})

    assert status == 400 and "messages[0].tool_calls[0].function" in words


def test_null_is_as_good_as_absent(ollama: OllamaCalls) -> None:
    nothing = dict.fromkeys(("format", "keep_alive", "think", "truncate", "shift", "logprobs", "top_logprobs", "tools"))
    message = {"role": "user", "content": "Hello!", "images": None, "tool_calls": None, "thinking": None}

    answer = ollama.answer("chat", messages=[message], options={"seed": None, "num_ctx": None}, **nothing)

    assert answer["message"]["content"] == HELLO


def test_too_many_messages_are_refused(ollama: OllamaCalls) -> None:
    status, words = ollama.error("chat", {"model": "tiny", "messages": ask("x") * 10_001})

    assert status == 400 and "10,001" in words


def test_fields_that_nobody_knows_are_left_out(ollama: OllamaCalls) -> None:
    assert ollama.answer("chat", messages=ask("Hello!"), width=512, height=512, steps=4, x={})["message"]["content"] == HELLO
