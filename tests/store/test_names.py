from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from myllm.errors import InvalidRequest
from myllm.store.names import find_names, name_of_file, same_names, spellings, validate_name

INSTALLED = ["gpt-oss:20b", "llama3:latest", "qwen3:0.6b", "qwen3:8b", "tiny", "org/Model"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("tiny", ["tiny"]),
        ("tiny:latest", ["tiny"]),
        ("llama3", ["llama3:latest"]),
        ("gpt-oss", ["gpt-oss:20b"]),
        ("qwen3", ["qwen3:0.6b", "qwen3:8b"]),
        ("TINY", ["tiny"]),
        ("GPT-OSS", ["gpt-oss:20b"]),
        ("org/model", ["org/Model"]),
        ("model", []),
        ("gpt", []),
        ("tin", []),
        ("", []),
        (":latest", []),
        ("gpt-oss:20", []),
    ],
)
def test_a_name_is_found_exactly_then_by_latest_then_by_family_then_without_case(asked: str, found: list[str]) -> None:
    assert find_names(asked, INSTALLED) == found


def test_an_alias_goes_before_a_family_and_after_a_name() -> None:
    aliases = {"qwen3": "qwen3:8b", "tiny": "qwen3:8b"}

    assert find_names("qwen3", INSTALLED, aliases) == ["qwen3:8b"]
    assert find_names("tiny", INSTALLED, aliases) == ["tiny"]


def test_two_names_that_differ_in_case_are_found_exactly_and_ambiguous_otherwise() -> None:
    assert find_names("Model", ["Model", "model"]) == ["Model"]
    assert find_names("MODEL", ["Model", "model"]) == ["Model", "model"]


def test_a_spelled_out_name_is_never_a_family() -> None:
    assert same_names("gpt-oss", INSTALLED) == []
    assert same_names("GPT-OSS:20B", INSTALLED) == ["gpt-oss:20b"]
    assert same_names("llama3", INSTALLED) == ["llama3:latest"]


@pytest.mark.parametrize("name", ["tiny", "gpt-oss:20b", "meta-llama/Llama-2-7b-chat-hf", "a.b_c", "x" * 200])
def test_a_name_of_the_usual_letters_is_valid(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../b", "a..b", "a//b", "a/", "-rf", ":a", "a b", "a\\b", "a\0", "ä", "x" * 201, "x" * 10**6],
)
def test_a_name_that_could_be_a_path_or_a_flag_is_refused_in_a_short_message(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_name(name)

    assert len(caught.value.message) < 1000


def test_a_files_name_is_its_stem_without_the_parts_number() -> None:
    assert name_of_file("Llama-3.2-Q4_K_M.gguf") == "Llama-3.2-Q4_K_M"
    assert name_of_file("org/big-00001-of-00003.gguf") == "org/big"


@given(st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.text()))
def test_whatever_is_asked_only_names_and_alias_targets_are_found(asked: str, names: list[str], aliases: dict[str, str]) -> None:
    assert set(find_names(asked, names, aliases)) <= {*names, *aliases.values()}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("hf.co/org/M-GGUF", ("hf.co/org/M-GGUF", "org/M-GGUF")),
        ("huggingface.co/org/M-GGUF:Q4_0", ("huggingface.co/org/M-GGUF:Q4_0", "org/M-GGUF:Q4_0")),
        ("registry.ollama.ai/library/m:1b", ("registry.ollama.ai/library/m:1b", "m:1b")),
        ("registry.ollama.ai/someone/m", ("registry.ollama.ai/someone/m", "someone/m")),
        ("library/m", ("library/m", "m")),
        ("m", ("m",)),
        ("library/", ("library/",)),
        ("org/library/m", ("org/library/m",)),
    ],
)
def test_a_name_with_a_registry_in_front_is_looked_for_as_it_stands_and_then_without(written: str, found: tuple[str, ...]) -> None:
    assert spellings(written) == found
