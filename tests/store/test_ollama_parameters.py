from __future__ import annotations

from typing import Any

import msgspec
import pytest

from myllm.config import EngineOptions
from myllm.errors import InvalidRequest
from myllm.store.ollama_parameters import PARAMETER_NAMES, Parameters, ollama_parameters, read_parameters, usable_parameters
from myllm.types import SamplingParams

EVERYTHING = {
    "temperature": 0.5,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.7,
    "repeat_penalty": 1.1,
    "repeat_last_n": -1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 42,
    "num_predict": 100,
    "stop": ["User:"],
    "num_ctx": 4096,
    "num_batch": 256,
    "num_gpu": 10,
    "main_gpu": 1,
    "num_thread": 4,
    "use_mmap": False,
    "use_mlock": True,
    "num_keep": 24,
}


def test_every_parameter_becomes_a_field_of_ours() -> None:
    read = read_parameters(EVERYTHING)

    assert EVERYTHING.keys() == PARAMETER_NAMES
    assert SamplingParams().updated(read.sampling).stop == ("User:",)
    assert msgspec.structs.replace(EngineOptions(), **read.engine).context_size == 4096
    assert read.num_keep == 24
    assert len(read.sampling) + len(read.engine) + 1 == len(EVERYTHING)


def test_what_was_read_is_told_again_by_ollamas_names() -> None:
    assert ollama_parameters(read_parameters(EVERYTHING)) == EVERYTHING
    assert ollama_parameters(Parameters({"ignore_eos": True})) == {}


@pytest.mark.parametrize("name", ["mirostat", "mirostat_tau", "tfs_z", "low_vram", "penalize_newline"])
def test_a_name_that_ollama_has_retired_is_taken_without_effect(name: str, caplog: pytest.LogCaptureFixture) -> None:
    read = read_parameters({name: 1, "top_k": 5})

    assert read.sampling == {"top_k": 5} and name in caplog.text


@pytest.mark.parametrize("name", ["temprature", "gpu_layers", "", "x" * 10_000])
def test_an_unknown_parameter_is_refused_with_the_names_that_there_are(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"no parameter.*temperature") as refused:
        read_parameters({name: 1})

    assert refused.value.param == f"parameters.{name[:40]}"
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("num_ctx", "4096", 'option "num_ctx" must be of type integer'),
        ("num_ctx", 4096.5, 'option "num_ctx" must be of type integer'),
        ("top_k", True, 'option "top_k" must be of type integer'),
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", 7, 'option "stop" must be of type array of strings'),
        ("stop", ["a", 7], 'option "stop" must be of type array of strings'),
        ("stop", [""], 'option "stop" takes up to 16 texts of 1 to 256 letters'),
        ("stop", ["x"] * 17, "takes up to 16"),
        ("top_p", 1.5, 'option "top_p" is 1.5; it takes 0 to 1'),
        ("temperature", float("nan"), 'option "temperature" is out of range; it takes 0 to 2'),
        ("num_ctx", float("inf"), "must be of type integer"),
        ("num_ctx", 10**30, 'option "num_ctx" is out of range; it takes 0 to 2147483647'),
        ("num_gpu", -2, "it takes -1 to 2147483647"),
        ("num_predict", 0, 'option "num_predict" is 0; it takes 1 or more'),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused_by_name(name: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_parameters({name: value}, "options")

    assert text in refused.value.message
    assert refused.value.param == f"options.{name}"


@pytest.mark.parametrize(
    ("written", "sampling"),
    [
        ({"top_k": 40.0}, {"top_k": 40}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"temperature": None}, {}),
    ],
)
def test_numbers_and_texts_are_taken_as_clients_write_them(written: dict[str, Any], sampling: dict[str, Any]) -> None:
    read = read_parameters(written)

    assert read == Parameters(sampling)
    assert [type(value) for value in read.sampling.values()] == [type(value) for value in sampling.values()]


@pytest.mark.parametrize(
    ("written", "field"), [({"num_predict": -1}, "max_tokens"), ({"num_predict": -2}, "max_tokens"), ({"seed": -1}, "seed")]
)
def test_a_bound_or_a_seed_of_the_model_is_lifted_with_minus_one(written: dict[str, int], field: str) -> None:
    laid = read_parameters(written).over(Parameters({field: 7, "top_p": 0.5}, {"threads": 2}))

    assert laid == Parameters({"top_p": 0.5}, {"threads": 2})


def test_what_is_given_goes_over_what_was_there() -> None:
    before = Parameters({"temperature": 0.1, "seed": 1}, {"context_size": 8, "mmap": False}, num_keep=4)

    laid = read_parameters({"temperature": 1.0, "num_ctx": 512}).over(before)

    assert laid == Parameters({"temperature": 1.0, "seed": 1}, {"context_size": 512, "mmap": False}, num_keep=4)
    assert read_parameters({"num_keep": 0}).over(before).num_keep == 0


def test_of_what_is_stored_the_usable_part_is_used() -> None:
    stored = {"temperature": 9, "top_k": 5, "mirostat": 2, "num_ctx": 2048, "num_thread": "all", "seed": -1, "stop": ["a", "", 3]}

    assert usable_parameters(stored) == Parameters({"top_k": 5, "stop": ("a",)}, {"context_size": 2048})
