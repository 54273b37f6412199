"""/v1/completions: prompts of every kind, several at once, and streams that come to the same."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import LiveServer
from openai_calls import Calls

PATH = "/completions"
TALE = "Once upon a time"
ADD = "def add(a, b):\n    return "


def tokens_of(v1: Calls, text: str) -> list[int]:
    tokens: list[int] = v1.server.post("/api/tokenize", model=v1.model, content=text, add_special=True).json()["tokens"]
    return tokens


def test_an_answer_has_every_field(v1: Calls) -> None:
    answer = v1.complete(TALE, max_tokens=3)

    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion" and answer["model"] == "tiny"
    assert answer["created"] > 1.7e9 and answer["system_fingerprint"].startswith("fp_")
    (choice,) = answer["choices"]
    assert choice == {"text": " there was a", "index": 0, "logprobs": None, "finish_reason": "length"}
    assert answer["usage"]["completion_tokens"] == 3 and answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 3


def test_tokens_are_as_good_as_their_text(exact: Calls) -> None:
    assert exact.text(tokens_of(exact, TALE)) == exact.text(TALE)


@pytest.mark.parametrize("as_tokens", [False, True])
def test_several_prompts_are_answered_one_after_the_other(exact: Calls, as_tokens: bool) -> None:
    prompts: list[Any] = [TALE, "The capital of France is", "1, 2, 3,"]
    if as_tokens:
        prompts = [tokens_of(exact, prompt) for prompt in prompts]

    answer = exact.complete(prompts, max_tokens=8)

    alone = [exact.complete(prompt, max_tokens=8) for prompt in prompts]
    assert [choice["text"] for choice in answer["choices"]] == [each["choices"][0]["text"] for each in alone]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    for name in ("prompt_tokens", "completion_tokens"):
        assert answer["usage"][name] == sum(each["usage"][name] for each in alone)


def test_choices_of_several_prompts_stand_prompt_by_prompt(exact: Calls) -> None:
    options = {"temperature": 1.3, "seed": 3, "max_tokens": 10}

    together = exact.complete([TALE, "1, 2, 3,"], n=2, **options)
    best = exact.complete([TALE, "1, 2, 3,"], n=1, best_of=2, **options)

    alone = [choice["text"] for prompt in (TALE, "1, 2, 3,") for choice in exact.complete(prompt, n=2, **options)["choices"]]
    assert [choice["text"] for choice in together["choices"]] == alone
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in best["choices"]]
    assert len(texts) == 2 and texts[0] in alone[:2] and texts[1] in alone[2:]


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": TALE, "temperature": 0},
        {"prompt": TALE, "temperature": 1.5, "seed": 11, "max_tokens": 40, "n": 3},
        {"prompt": [TALE, "1, 2, 3,"], "temperature": 1, "seed": 4, "n": 2, "logprobs": 2},
        {"prompt": [TALE, "1, 2, 3,"], "temperature": 1, "seed": 4, "n": 2, "echo": True},
        {"prompt": [TALE, "1, 2, 3,"], "temperature": 1, "seed": 4, "n": 2, "echo": True, "logprobs": 1, "max_tokens": 5},
        {"prompt": TALE, "temperature": 0, "stop": [" prince", "x"], "logprobs": 0, "echo": True},
        {"prompt": TALE, "temperature": 2, "seed": 1, "max_tokens": 60, "logprobs": 5, "min_p": 0.001},
        {"prompt": ADD, "suffix": "\n\nprint(add(1, 2))\n", "temperature": 0, "echo": True},
        {"prompt": "Repeat: 😀 你好 😀 ", "temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 30},
    ],
)
def test_a_stream_comes_to_what_the_answer_is_without_streaming(exact: Calls, options: dict[str, Any]) -> None:
    whole = exact.whole(PATH, **options)
    stream = exact.stream(PATH, **options, stream_options={"include_usage": True})

    assert stream.texts == [choice["text"] for choice in whole["choices"]]
    assert stream.reasons == [choice["finish_reason"] for choice in whole["choices"]]
    for streamed, choice in zip(stream.logprobs, whole["choices"], strict=True):
        assert (streamed is None) == (choice["logprobs"] is None) == ("logprobs" not in options)
        if streamed is not None:
            assert streamed["tokens"] == choice["logprobs"]["tokens"] and streamed["text_offset"] == choice["logprobs"]["text_offset"]
            assert "".join(streamed["tokens"]) == choice["text"]
            assert [value is None for value in streamed["token_logprobs"]].count(True) == ("echo" in options)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert stream.usage[name] == whole["usage"][name]


@pytest.mark.parametrize("text", [TALE, " begins with a space", "a\nb\n", "😀", "Hello <|eot_id|> señor", "\t"])
def test_an_echo_with_its_tokens_is_the_prompt_whatever_it_holds(v1: Calls, text: str) -> None:
    choice = v1.complete(text, echo=True, logprobs=0, max_tokens=1)["choices"][0]

    assert choice["text"].startswith(text) and "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_a_suffix_ends_the_text_of_a_model_that_cannot_fill_in(zoo: LiveServer) -> None:
    plain = Calls(zoo, model="org/plain:2b")
    body = {"prompt": "Hello", "max_tokens": 5, "temperature": 0}

    without, whole = plain.text(**body), plain.text(**body, suffix=" The end.")
    stream = plain.stream(PATH, **body, suffix=" The end.", echo=True)

    assert whole == without + " The end." and stream.texts == ["Hello" + whole]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ([1, "a"], "mixes"),
        ([[1], "a"], "mixes"),
        ([[1], 2], "mixes"),
        ([-1], "token id"),
        ([2**40], "token id"),
        ([[1, 99_999]], "vocabulary"),
        ([1.5], "takes"),
        ([True], "takes"),
        ([None], "takes"),
        ({"a": 1}, "takes"),
        (None, "takes"),
        (5, "takes"),
        ([["a"]], "takes"),
        ([[[1]]], "takes"),
        (["x"] * 257, "256"),
        (["word " * 3000], "2,048"),
    ],
)
def test_a_prompt_that_is_none_is_refused_and_named(v1: Calls, prompt: Any, says: str) -> None:
    for echo in (False, True):
        error = v1.error(PATH, prompt=prompt, echo=echo)

        assert error["param"].startswith("prompt") and says in error["message"] and "'messages'" not in error["message"]


def test_a_prompt_is_required(v1: Calls) -> None:
    assert v1.error(PATH)["param"] == "prompt"


def test_as_many_answers_as_a_request_takes_are_given(v1: Calls) -> None:
    answer = v1.complete(["Once"] * 32, n=2, max_tokens=1)

    assert len(answer["choices"]) == 64
    assert v1.error(PATH, prompt=["x"] * 17, n=16)["param"] == "prompt"


def test_the_prompt_of_several_choices_is_evaluated_once_and_its_cells_are_shared(make_server: Any) -> None:
    server = make_server("--model", "tiny")

    usage = Calls(server).complete("one two three four five " * 100, n=8, max_tokens=4, temperature=1)["usage"]

    counted = dict(line.split(" ") for line in server.http.get("/metrics").text.splitlines() if 'model="tiny"' in line)
    assert float(counted['myllm_prompt_tokens_total{model="tiny"}']) <= usage["prompt_tokens"] + 7  # each choice its last one
    assert float(counted['myllm_cells_used{model="tiny"}']) <= usage["prompt_tokens"] + usage["completion_tokens"] + 7
