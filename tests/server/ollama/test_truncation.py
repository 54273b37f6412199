"""A prompt that is longer than the context: what it loses, that it is told, and where it is refused instead.

The text of an answer to half a prompt is of no interest; what the prompt was is seen in its number of tokens.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from live_server import wait_until
from ollama_calls import HELLO, OllamaCalls, ask, with_defaults

WORDS = "word " * 600
LONGER = "word " * 3000
SECRET = {"role": "system", "content": "The secret word is zumbrek."}
TURNS = [*ask("My name is Ada."), {"role": "assistant", "content": "Nice to meet you, Ada!"}]
HEADER = "x-myllm-truncated"


def whole(ollama: OllamaCalls, path: str, **body: Any) -> httpx.Response:
    response = ollama.send(path, with_defaults(body) | {"stream": False})
    assert response.status_code == 200, response.text
    return response


def test_a_history_that_is_too_long_loses_its_oldest_turns_and_says_so(ollama: OllamaCalls) -> None:
    messages = [SECRET, *TURNS * 3, *ask("What is the secret word?")]

    response = whole(ollama, "chat", messages=messages, options={"num_ctx": 64})

    answer = response.json()
    assert answer["message"]["content"] == "The secret word is zumbrek."
    assert answer["truncated"] is True and answer["truncated_messages"] == 6 and "truncated_tokens" not in answer
    assert response.headers[HEADER] == "messages=6, tokens=0"
    wait_until(lambda: [line for line in ollama.server.log if "left out: 6 messages, 0 tokens" in line], "the log warns")


def test_a_stream_says_so_before_its_first_line_and_in_its_last(ollama: OllamaCalls) -> None:
    body = with_defaults({"messages": [SECRET, *TURNS * 3, *ask("What is the secret word?")], "options": {"num_ctx": 64}})

    with ollama.server.http.stream("POST", "/ollama/api/chat", json=body) as response:
        header = response.headers[HEADER]
        last = list(response.iter_lines())[-1]

    assert header == "messages=6, tokens=0" and '"truncated":true' in last and '"truncated_messages":6' in last


def test_a_message_that_is_too_long_by_itself_loses_its_beginning(ollama: OllamaCalls) -> None:
    question = "What is the capital of France?"
    options = {"num_ctx": 128}

    response = whole(ollama, "chat", messages=[SECRET, *ask(WORDS + question)], options=options)

    answer = response.json()
    head = whole(ollama, "chat", messages=[SECRET, *ask(question)]).json()["prompt_eval_count"]
    assert answer["prompt_eval_count"] == 96  # three quarters of the context; the rest is for the answer
    assert answer["truncated_tokens"] == pytest.approx(head + 600 - 96, abs=1)  # a word's token depends on what stands before it
    assert response.headers[HEADER] == f"messages=0, tokens={answer['truncated_tokens']}"


def test_what_stands_before_the_message_stays(ollama: OllamaCalls) -> None:
    """The system's words and the template's: with Ollama they are what goes first."""
    answer = ollama.answer("generate", prompt=WORDS, system=SECRET["content"], options={"num_ctx": 128, "num_predict": 1})
    context = ollama.server.post("/api/detokenize", model="tiny", tokens=answer["context"]).json()["content"]

    assert context.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nThe secret word is zumbrek.<|eot_id|>")
    assert "word word<|eot_id|><|start_header_id|>assistant<|end_header_id|>" in context and answer["truncated_tokens"] > 400


def test_num_keep_is_how_much_of_a_raw_prompt_stays_in_front(ollama: OllamaCalls) -> None:
    body = {"prompt": "Once upon a time " + WORDS, "raw": True}
    kept = ollama.answer("generate", **body, options={"num_ctx": 64, "num_predict": 1, "num_keep": 20})
    default = ollama.answer("generate", **body, options={"num_ctx": 64, "num_predict": 1})

    assert kept["prompt_eval_count"] == default["prompt_eval_count"] == 63  # an answer of one token leaves the rest to the prompt
    assert kept["truncated_tokens"] == default["truncated_tokens"] > 500


@pytest.mark.parametrize("how", [{"truncate": False}, {"shift": False}])
def test_who_forbids_it_gets_an_error_with_both_numbers(ollama: OllamaCalls, how: dict[str, bool]) -> None:
    for path, body in (("chat", {"messages": ask(WORDS)}), ("generate", {"prompt": WORDS}), ("generate", {"prompt": WORDS, "raw": True})):
        status, words = ollama.error(path, with_defaults({**body, **how, "options": {"num_ctx": 256}}))

        assert status == 400 and words.startswith("the prompt is longer than the context length currently available to the model; ")
        assert "256" in words and "6" in words


def test_turns_may_still_go_where_a_message_may_not_be_cut(ollama: OllamaCalls) -> None:
    messages = [SECRET, *TURNS * 3, *ask("What is the secret word?")]

    answer = ollama.answer("chat", messages=messages, shift=False, options={"num_ctx": 64})

    assert answer["truncated_messages"] == 6


def test_what_fits_is_neither_cut_nor_said_to_be(ollama: OllamaCalls) -> None:
    response = whole(ollama, "chat", messages=ask("Hello!"), options={"num_ctx": 64})

    assert response.json()["message"]["content"] == HELLO
    assert HEADER not in response.headers and not {"truncated", "truncated_messages", "truncated_tokens"} & set(response.json())


def test_a_whole_context_is_cut_like_a_smaller_one(ollama: OllamaCalls) -> None:
    answer = ollama.answer("generate", prompt=LONGER, options={"num_predict": 2})

    assert answer["truncated_tokens"] > 900 and answer["prompt_eval_count"] == 2046


def test_a_context_of_an_earlier_answer_is_cut_behind_its_beginning(ollama: OllamaCalls) -> None:
    before = ollama.answer("generate", prompt=WORDS[:1500], options={"num_predict": 1})["context"]

    answer = ollama.answer("generate", prompt="Hello!", context=before, options={"num_ctx": 128, "num_predict": 1})

    assert answer["context"][:4] == before[:4] and answer["truncated_tokens"] > 150


def test_a_smaller_num_ctx_bounds_the_request_and_reloads_nothing(ollama: OllamaCalls) -> None:
    pids = ollama.server.worker_pids()

    answer = ollama.answer("generate", prompt="Write a very long story.", options={"num_ctx": 100})

    assert answer["done_reason"] == "length" and answer["prompt_eval_count"] + answer["eval_count"] == 100
    assert ollama.server.worker_pids() == pids
    line = ollama.loaded()
    assert line is not None and line["context_length"] == 2048


def test_a_larger_num_ctx_than_the_loaded_one_loads_the_model_anew(own: OllamaCalls) -> None:
    own.unload_all()
    loads = own.server.post("/api/models/tiny/load", context_size=256)
    lengths = []
    for options in ({}, {"num_ctx": 512}, {"num_ctx": 128}, {}, {"num_ctx": 10**6}):
        own.answer("chat", messages=ask("Hello!"), options=options)
        line = own.loaded()
        lengths.append(line and line["context_length"])

    assert loads.status_code == 200
    assert lengths == [256, 512, 512, 512, 2048]  # never more than the model was made for


def test_a_model_that_is_not_loaded_is_loaded_as_usual_for_a_smaller_num_ctx(own: OllamaCalls) -> None:
    own.unload_all()

    own.answer("generate", prompt="Hello!", options={"num_ctx": 64})

    line = own.loaded()
    assert line is not None and line["context_length"] == 2048


def test_an_answer_ends_where_the_context_does_unless_it_is_to_be_shifted(ollama: OllamaCalls) -> None:
    body = {"prompt": "Write a very long story.", "options": {"num_ctx": 128, "num_predict": 400}}

    ended, shifted = ollama.answer("generate", **body), ollama.answer("generate", **body, shift=True)

    assert ended["done_reason"] == "length" and ended["eval_count"] < 128 and "truncated" not in ended
    assert shifted["done_reason"] == "length" and shifted["eval_count"] == 400
    assert len(shifted["response"]) > 2 * len(ended["response"]) and shifted["truncated_tokens"] > 100
    assert len(shifted["context"]) <= 128


def test_a_shifted_answer_streams_on_as_if_nothing_was(ollama: OllamaCalls) -> None:
    body = {"messages": ask("Write a very long story."), "options": {"num_ctx": 128, "num_predict": 300}, "shift": True}

    lines = ollama.lines("chat", **body)

    text = "".join(line["message"]["content"] for line in lines)
    assert text.startswith("Chapter 1\nOnce upon a time there was a ") and len(text) > 600
    assert lines[-1]["eval_count"] == 300 and lines[-1]["done_reason"] == "length" and lines[-1]["truncated_tokens"] > 100


def test_a_shifted_answer_without_a_bound_ends_after_ten_contexts(ollama: OllamaCalls) -> None:
    """Counting never ends by itself once its beginning is forgotten."""
    answer = ollama.answer(
        "generate", prompt="1, 2, 3, 4, 5, 6,", raw=True, shift=True, options={"num_ctx": 32, "temperature": 1.5, "seed": 3}
    )

    assert answer["eval_count"] <= 320 and answer["done_reason"] in ("stop", "length")


def test_a_shifted_answer_whose_models_own_bound_is_lifted_ends_there_too(own: OllamaCalls) -> None:
    own.answer("create", **{"from": "tiny", "model": "brief", "parameters": {"num_predict": 3}})
    body = {"model": "brief", "prompt": "1, 2, 3, 4, 5, 6,", "raw": True, "shift": True}
    hot = {"num_ctx": 32, "temperature": 1.5, "seed": 3}

    bounded, lifted = own.answer("generate", **body, options=hot), own.answer("generate", **body, options=hot | {"num_predict": -1})
    own.send("delete", {"model": "brief"}, "DELETE")

    assert bounded["eval_count"] == 3 and 3 < lifted["eval_count"] <= 320


def test_a_text_to_fill_in_is_bounded_too(ollama: OllamaCalls) -> None:
    status, words = ollama.error("generate", with_defaults({"prompt": WORDS, "suffix": "x", "options": {"num_ctx": 64}}))

    assert status == 400 and "the request takes 64" in words
