"""/v1/embeddings: inputs of every kind, two encodings, fewer dimensions, and the default model."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer, wait_until
from openai_calls import Calls
from typed_answers import assert_is

from myllm.server.openai.answers import EmbeddingsAnswer

PATH = "/embeddings"
WIDTH = 256  # of tiny's vectors


def embed(calls: Calls, given: Any, **body: Any) -> dict[str, Any]:
    response = calls.post(PATH, input=given, **body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_is(EmbeddingsAnswer, answer)
    return answer


def vectors(answer: dict[str, Any]) -> list[list[float]]:
    assert [line["index"] for line in answer["data"]] == list(range(len(answer["data"])))
    return [line["embedding"] for line in answer["data"]]


def likeness(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def test_a_text_has_one_normalised_vector(v1: Calls) -> None:
    answer = embed(v1, "This is a sample text for embedding", encoding_format="float")

    assert answer["object"] == "list" and answer["model"] == "tiny" and answer["data"][0]["object"] == "embedding"
    (vector,) = vectors(answer)
    assert len(vector) == WIDTH and math.isclose(likeness(vector, vector), 1.0, rel_tol=1e-4)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_several_texts_have_a_vector_each_in_their_order(v1: Calls) -> None:
    texts = ["Hello world", "¡Hola!", "Hello world"]

    one, other, again = vectors(embed(v1, texts))

    assert likeness(one, again) > 0.999 > likeness(one, other)
    assert likeness(other, vectors(embed(v1, texts[1]))[0]) > 0.999


def test_tokens_are_as_good_as_their_text(v1: Calls) -> None:
    tokens = v1.server.post("/api/tokenize", model="tiny", content="Hello world", add_special=True).json()["tokens"]

    by_text, by_tokens, by_lists = (vectors(embed(v1, given)) for given in ("Hello world", tokens, [tokens, tokens]))

    assert likeness(by_text[0], by_tokens[0]) > 0.999 and len(by_lists) == 2 and likeness(by_text[0], by_lists[1]) > 0.999


def test_base64_holds_the_same_numbers_as_little_endian_floats(v1: Calls) -> None:
    plain, encoded = (embed(v1, ["Hello", "world"], encoding_format=name) for name in ("float", "base64"))

    decoded = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors(encoded)]  # type: ignore[arg-type]
    assert np.allclose(decoded, vectors(plain), atol=1e-6)


def test_dimensions_keep_the_first_numbers_and_normalise_anew(v1: Calls) -> None:
    (whole,), (short,) = (vectors(embed(v1, "Hello", **given)) for given in ({}, {"dimensions": 16}))

    length = math.sqrt(likeness(whole[:16], whole[:16]))
    assert short == pytest.approx([number / length for number in whole[:16]], abs=1e-5)
    assert len(vectors(embed(v1, "Hello", dimensions=WIDTH))[0]) == WIDTH


def test_more_dimensions_than_the_model_has_are_refused(v1: Calls) -> None:
    for dimensions in (WIDTH + 1, 0, -1, "16", 1.5):
        assert v1.error(PATH, input="Hello", dimensions=dimensions)["param"] == "dimensions"


def test_without_a_model_the_default_one_answers(v1: Calls, zoo: LiveServer) -> None:
    only = v1.server.http.post("/v1/embeddings", json={"input": "Hello"}).json()
    configured = zoo.http.post("/v1/embeddings", json={"input": "Hello", "model": None}).json()

    assert only["model"] == "tiny" and configured["model"] == "exact"


def test_the_user_is_in_the_log(v1: Calls) -> None:
    embed(v1, "Hello", user="somebody-43")

    wait_until(lambda: any("somebody-43" in line for line in v1.server.log), "the user is in the log")


def test_an_encoder_embeds(zoo: LiveServer) -> None:
    answer = embed(Calls(zoo, model="bert"), ["Hello", "world"])

    assert answer["model"] == "bert" and len(answer["data"]) == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "empty"),
        ([1, "a"], "mixes"),
        ([-1], "token id"),
        ([99_999], "vocabulary"),
        (None, "takes"),
        (5, "takes"),
        ([None], "takes"),
        ({}, "takes"),
    ],
)
def test_an_input_that_is_none_is_refused_and_named(v1: Calls, given: Any, says: str) -> None:
    error = v1.error(PATH, input=given)

    assert error["param"].startswith("input") and says in error["message"]


@pytest.mark.parametrize(("field", "value"), [("encoding_format", "int8"), ("model", 5), ("user", 5)])
def test_a_value_out_of_range_is_refused_and_named(v1: Calls, field: str, value: Any) -> None:
    assert v1.error(PATH, **{"input": "Hello", field: value})["param"] == field


def test_an_input_is_required_and_an_unknown_model_is_404(v1: Calls) -> None:
    assert v1.error(PATH)["param"] == "input"
    assert v1.error(PATH, 404, input="x", model="none")["code"] == "model_not_found"


def test_a_text_that_does_not_fit_is_refused(v1: Calls) -> None:
    error = v1.error(PATH, input=["x", "word " * 4000])

    assert error["param"] == "input" and "2,048" in error["message"]


def test_null_is_as_good_as_nothing(v1: Calls) -> None:
    nothing = embed(v1, "Hello", model=None, encoding_format=None, dimensions=None, user=None, keep_alive=None)

    assert vectors(nothing) == vectors(embed(v1, "Hello", model="tiny"))


def test_keep_alive_lets_the_model_go(make_server: Callable[..., LiveServer]) -> None:
    """It was taken and did nothing."""
    calls = Calls(make_server())

    embed(calls, "Hello", keep_alive=0)

    wait_until(lambda: calls.server.status().get("status") != "loaded", "the model is unloaded")
    assert calls.error(PATH, input="Hello", keep_alive="soon")["param"] == "keep_alive"
