from __future__ import annotations

import math
from typing import Any

import pytest
from ollama_calls import OllamaCalls, with_defaults

LONG = "word " * 3000


def embed(ollama: OllamaCalls, **body: Any) -> dict[str, Any]:
    response = ollama.send("embed", with_defaults(body))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def length(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))


def test_each_input_has_a_vector_of_length_one(ollama: OllamaCalls) -> None:
    answer = embed(ollama, model="tiny:latest", input=["one", "two", "three"])

    assert set(answer) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert answer["model"] == "tiny:latest" and [len(vector) for vector in answer["embeddings"]] == [256] * 3
    assert [length(vector) for vector in answer["embeddings"]] == pytest.approx([1] * 3, abs=1e-4)
    assert all(isinstance(answer[name], int) and answer[name] > 0 for name in ("total_duration", "load_duration", "prompt_eval_count"))


def test_a_text_alone_has_the_vector_that_it_has_in_a_list(ollama: OllamaCalls) -> None:
    alone, listed = embed(ollama, input="one")["embeddings"], embed(ollama, input=["one"])["embeddings"]

    assert alone == listed and len(alone) == 1


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_no_input_loads_the_model(own: OllamaCalls, nothing: dict[str, Any]) -> None:
    own.send("generate", {"model": "tiny", "keep_alive": 0})

    assert embed(own, **nothing) == {"model": "tiny", "embeddings": []}
    assert own.loaded() is not None


def test_dimensions_keep_the_first_and_normalise_anew(ollama: OllamaCalls) -> None:
    whole, short = embed(ollama, input="one")["embeddings"][0], embed(ollama, input="one", dimensions=8)["embeddings"][0]

    assert len(short) == 8 and length(short) == pytest.approx(1, abs=1e-4)
    assert [x / short[0] for x in short] == pytest.approx([x / whole[0] for x in whole[:8]], rel=1e-4)
    assert embed(ollama, input="one", dimensions=0)["embeddings"][0] == whole


@pytest.mark.parametrize("number", [-1, 257, 10**9])
def test_dimensions_that_the_model_has_not_are_refused(ollama: OllamaCalls, number: int) -> None:
    status, words = ollama.error("embed", {"model": "tiny", "input": "x", "dimensions": number})

    assert status == 400 and "'dimensions'" in words


def test_an_input_that_is_too_long_loses_its_end(ollama: OllamaCalls) -> None:
    for how in ({}, {"truncate": True}, {"truncate": None}):
        answer = embed(ollama, input=[LONG, "x"], **how)

        assert len(answer["embeddings"]) == 2 and answer["prompt_eval_count"] == 2048 + 2


def test_num_ctx_is_what_an_input_may_have(ollama: OllamaCalls) -> None:
    cut = embed(ollama, input="one two three four five six seven eight", options={"num_ctx": 6})
    status, words = ollama.error("embed", with_defaults({"input": LONG, "truncate": False, "options": {"num_ctx": 6}}))

    assert cut["prompt_eval_count"] == 6
    assert (status, words) == (400, "the input length exceeds the context length")


def test_what_is_around_a_text_stays_when_it_is_cut(ollama: OllamaCalls) -> None:
    """A text that begins as another one does, and is cut there, has its vector: both have the same beginning and end."""
    cut = embed(ollama, input="word " * 40, options={"num_ctx": 11})
    count = embed(ollama, input="word" + " word" * 9)

    assert count["prompt_eval_count"] == 11
    assert sum(a * b for a, b in zip(cut["embeddings"][0], count["embeddings"][0], strict=True)) == pytest.approx(1, abs=0.01)


def test_the_old_endpoint_has_one_vector(ollama: OllamaCalls) -> None:
    answer = ollama.send("embeddings", {"model": "tiny", "prompt": "one"}).json()

    assert list(answer) == ["embedding"]
    assert answer["embedding"] == pytest.approx(embed(ollama, input="one")["embeddings"][0], abs=1e-3)
    assert ollama.send("embeddings", {"model": "tiny", "prompt": ""}).json() == {"embedding": []}
