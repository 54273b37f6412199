"""Prompts with a gap: the order of their parts on a made vocabulary, and on a real one."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import llama_cpp.llama_cpp as C
import make_gguf
import numpy as np
import pytest

from myllm.config import EngineOptions
from myllm.engine.llama import LlamaModel
from myllm.engine.prompts import SpecialTokens, fill_in, literal

BOS, PRE, SUF, MID = 90, 91, 92, 93
CODE = SpecialTokens(bos=BOS, eos=99, fill_in=(PRE, SUF, MID), adds_bos=True)


def array(*token_ids: int) -> np.ndarray:
    return np.array(token_ids, np.int32)


def test_prefix_suffix_and_the_place_of_the_middle_come_in_this_order():
    assert fill_in(CODE, array(1, 2), array(3)).tolist() == [BOS, PRE, 1, 2, SUF, 3, MID]


def test_a_vocabulary_that_wants_no_bos_gets_none():
    special = SpecialTokens(bos=BOS, fill_in=(PRE, SUF, MID))

    assert fill_in(special, array(1), array(3)).tolist() == [PRE, 1, SUF, 3, MID]
    assert fill_in(special, array(BOS, 1), array(3)).tolist() == [PRE, BOS, 1, SUF, 3, MID]


def test_a_bos_that_is_there_already_stands_in_front_once():
    assert fill_in(CODE, array(BOS, 1), array(3)).tolist() == [BOS, PRE, 1, SUF, 3, MID]


@pytest.mark.parametrize(("prefix", "suffix"), [((), ()), ((1,), ()), ((), (3,))])
def test_either_side_of_a_gap_may_be_empty(prefix: tuple[int, ...], suffix: tuple[int, ...]):
    assert fill_in(CODE, array(*prefix), array(*suffix)).tolist() == [BOS, PRE, *prefix, SUF, *suffix, MID]


def test_what_a_vocabulary_does_not_have_is_not_put_around_a_text():
    assert (SpecialTokens(adds_bos=True, adds_eos=True).before, SpecialTokens(adds_bos=True, adds_eos=True).after) == ([], [])


def test_a_model_tells_which_tokens_it_has(tiny: LlamaModel, mamba: LlamaModel):
    ids = [tiny.control_tokens.index(f"<|fim_{part}|>") for part in ("prefix", "suffix", "middle")]

    assert tiny.special.fill_in == tuple(tiny._control_ids[at] for at in ids)
    assert tiny.special.before == [C.llama_vocab_bos(tiny.vocab)] and tiny.special.after == []
    assert mamba.special.fill_in is None


def test_control_tokens_in_code_are_letters(tiny: LlamaModel):
    text = "a <|fim_middle|> b<|eot_id|>"

    token_ids = literal(tiny, text)

    assert not set(token_ids.tolist()) & set(tiny._control_ids)
    assert tiny.detokenize(token_ids.tolist()) == text


def test_a_made_vocabulary_for_code_has_its_places_and_the_ends_of_a_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Models for code end a middle with a token that pads, or that begins the next file or repository."""
    names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
    for number, name in enumerate(names, 20):
        monkeypatch.setitem(make_gguf.CONTROL_NAMES, number, name)
    shape = {"vocab": 1024, "layers": 1, "width": 64, "context": 64, "type": "f32", "seed": 0}
    make_gguf.write_model(argparse.Namespace(out=tmp_path / "code.gguf", arch="llama", **shape))

    with closing(LlamaModel(tmp_path / "code.gguf", EngineOptions(), lambda fraction: None)) as model:
        first = 1024 - make_gguf.NUM_CONTROL_TOKENS + 20

        assert model.special.fill_in == (first, first + 1, first + 2)
        assert model.end_tokens & set(range(first, first + 6)) == {first + 3, first + 4, first + 5}


@pytest.mark.parametrize(
    ("text", "holds"), [("plain", False), ("<|eot_id|>", True), ("x<|fim_prefix|>y", True), ("<|eot_id", False), ("", False)]
)
def test_a_text_with_control_tokens_is_found(tiny: LlamaModel, text: str, holds: bool):
    assert tiny.holds_control_tokens(text) is holds
