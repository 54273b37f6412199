from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ollama_calls import HELLO, NDJSON, OllamaCalls, ask, with_defaults

ONCE = "Once upon a time"


def test_the_streamed_text_is_the_text_without_streaming(ollama: OllamaCalls) -> None:
    for body in ({"prompt": "Repeat after me: hello 😀 world 你好"}, {"prompt": ONCE, "raw": True, "options": {"num_predict": 3}}):
        whole = ollama.answer("generate", **body)["response"]
        lines = ollama.lines("generate", **body)

        assert "".join(line["response"] for line in lines) == whole and "�" not in whole


def test_a_stream_is_what_one_gets_who_says_nothing_of_it(ollama: OllamaCalls) -> None:
    for body in ({}, {"stream": None}, {"stream": True}):
        response = ollama.send("generate", with_defaults({"prompt": "Hello!", **body}))

        assert response.headers["content-type"] == NDJSON and len(response.text.splitlines()) > 5


def test_the_model_in_the_answer_is_the_name_that_was_asked_for(ollama: OllamaCalls) -> None:
    for name in ("tiny", "tiny:latest", "TINY"):
        assert {line["model"] for line in ollama.lines("generate", model=name, prompt="Hello!")} == {name}


def test_a_prompt_is_answered_as_a_chat_of_one_message(ollama: OllamaCalls) -> None:
    generated = ollama.answer("generate", prompt="What is the capital of France?")
    chatted = ollama.answer("chat", messages=ask("What is the capital of France?"))

    assert generated["response"] == chatted["message"]["content"] == "The capital of France is Paris."
    assert generated["prompt_eval_count"] == chatted["prompt_eval_count"]


def test_a_system_text_reaches_the_prompt(ollama: OllamaCalls) -> None:
    answer = ollama.answer("generate", prompt="What is the secret word?", system="The secret word is zumbrek.")

    assert answer["response"] == "The secret word is zumbrek."


def test_a_raw_prompt_is_continued_as_it_is_and_has_no_context(ollama: OllamaCalls) -> None:
    answer = ollama.answer("generate", prompt=ONCE, raw=True, options={"num_predict": 12})

    assert answer["response"].startswith(" there was a") and "context" not in answer
    assert answer["done_reason"] == "length" and answer["eval_count"] == 12


def test_a_suffix_asks_for_what_lies_between(ollama: OllamaCalls) -> None:
    body: dict[str, Any] = {"prompt": "def add(a, b):\n    return ", "suffix": "\n"}
    for how in ({}, {"raw": True}):
        answer = ollama.answer("generate", **body, **how)

        assert answer["response"] == "a + b" and answer["done_reason"] == "stop"


@pytest.mark.parametrize(("field", "value"), [("system", "x"), ("template", "x"), ("context", [1]), ("shift", True)])
def test_what_does_nothing_beside_a_suffix_is_refused(ollama: OllamaCalls, field: str, value: object) -> None:
    status, words = ollama.error("generate", {"model": "tiny", "prompt": "a", "suffix": "b", field: value})

    assert status == 400 and f"'{field}'" in words


def test_a_context_is_the_conversation_so_far(ollama: OllamaCalls) -> None:
    first = ollama.answer("generate", prompt="My name is Ludmila.")
    second = ollama.answer("generate", prompt="What is 3 + 4?", context=first["context"])
    third = ollama.answer("generate", prompt="What is my name?", context=second["context"])
    without = ollama.answer("generate", prompt="What is my name?")

    assert "Ludmila" in third["response"] and "Ludmila" not in without["response"]
    assert third["context"][: len(second["context"])] == second["context"]
    assert third["prompt_eval_count"] == len(second["context"]) + without["prompt_eval_count"] - 1  # one beginning of a text


def test_a_context_is_the_tokens_of_the_prompt_and_of_the_answer(ollama: OllamaCalls) -> None:
    context = ollama.answer("generate", prompt="Hello!")["context"]
    text = ollama.server.post("/api/detokenize", model="tiny", tokens=context).json()["content"]

    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    assert text == f"<|begin_of_text|>{head('user')}Hello!<|eot_id|>{head('assistant')}{HELLO}<|eot_id|>"


def test_a_context_of_another_vocabulary_is_refused(ollama: OllamaCalls) -> None:
    for tokens in ([99_999], [-1], [10**30]):
        status, words = ollama.error("generate", {"model": "tiny", "prompt": "x", "context": tokens})

        assert status == 400 and "'context'" in words


def test_a_template_in_jinja_holds_for_its_request(ollama: OllamaCalls) -> None:
    template = "<|begin_of_text|>{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    body = {"prompt": "Hello!", "system": "Be brief.", "template": template}

    shown = ollama.send("generate", with_defaults(body | {"_debug_render_only": True})).json()

    assert shown["_debug_info"] == {"rendered_template": "<|begin_of_text|>system: Be brief.\nuser: Hello!\n"}
    assert ollama.answer("generate", **body)["prompt_eval_count"] > 5
    assert ollama.answer("generate", prompt="Hello!")["response"] == HELLO


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ .System }} {{ .Prompt }}", "send Jinja"), ("{{ messages", "failed at line 1"), ("{{ x.y.z }}", "failed at line 1")],
)
def test_a_template_that_cannot_be_used_is_refused(ollama: OllamaCalls, template: str, words: str) -> None:
    status, told = ollama.error("generate", {"model": "tiny", "prompt": "x", "template": template})

    assert status == 400 and words in told


def test_a_prompt_can_be_looked_at_before_it_is_sent(ollama: OllamaCalls) -> None:
    chat = ollama.send("chat", with_defaults({"messages": ask("Hi"), "_debug_render_only": True})).json()
    raw = ollama.send("generate", with_defaults({"prompt": "Hi", "raw": True, "_debug_render_only": True})).json()

    assert chat["done"] is False and "<|start_header_id|>user<|end_header_id|>\n\nHi" in chat["_debug_info"]["rendered_template"]
    assert raw["_debug_info"] == {"rendered_template": "Hi"}


def test_log_probabilities_come_with_the_text_that_they_are_of(ollama: OllamaCalls) -> None:
    body = {"messages": ask("Repeat: 你好 世界"), "logprobs": True, "top_logprobs": 3}
    lines, whole = ollama.lines("chat", **body), ollama.answer("chat", **body)

    streamed = [token for line in lines for token in line.get("logprobs", [])]
    assert [token["token"] for token in streamed] == [token["token"] for token in whole["logprobs"]]
    assert "".join(token["token"] for token in streamed) == whole["message"]["content"] == "你好 世界"
    assert bytes(byte for token in streamed for byte in token["bytes"]).decode().startswith("你好 世界")
    for token in whole["logprobs"]:
        assert token["logprob"] <= 0 and len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"], abs=1e-3)


def test_log_probabilities_without_a_number_are_the_picked_tokens_alone(ollama: OllamaCalls) -> None:
    answer = ollama.answer("generate", prompt="Hello!", logprobs=True)

    assert len(answer["logprobs"]) == answer["eval_count"] - 1  # the end of the turn is no text
    assert all(set(token) == {"token", "logprob", "bytes"} for token in answer["logprobs"])
    assert "logprobs" not in ollama.answer("generate", prompt="Hello!", logprobs=False)


def test_durations_are_integers_that_add_up(ollama: OllamaCalls) -> None:
    end = ollama.answer("generate", prompt="Tell me a story about a dragon.")

    parts = [end["load_duration"], end["prompt_eval_duration"], end["eval_duration"]]
    assert all(isinstance(part, int) and part > 0 for part in parts)
    assert sum(parts) <= end["total_duration"]
    rate = end["eval_count"] / end["eval_duration"] * 1e9
    assert math.isfinite(rate) and 1 < rate < 1e6


def test_many_requests_at_once_are_answered_together(ollama: OllamaCalls) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: ollama.answer("generate", prompt="Hello!")["response"], range(8)))

    assert texts == [HELLO] * 8


def test_control_tokens_in_a_prompt_are_letters_and_in_a_raw_one_tokens(ollama: OllamaCalls) -> None:
    letters = ollama.answer("generate", prompt="<|eot_id|>")["prompt_eval_count"]
    token = ollama.answer("generate", prompt="<|eot_id|>", raw=True, options={"num_predict": 1})["prompt_eval_count"]

    assert token == 2 and letters > ollama.answer("generate", prompt="x")["prompt_eval_count"] + 4
