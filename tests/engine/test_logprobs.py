"""Log probabilities of an answer: the engine on the fake context, whose rows are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import FakeContext, FakeVocabulary, answering
from hypothesis import given, settings, strategies as st

from myllm.engine.engine import Engine
from myllm.engine.logprobs import UNLIKELY, likeliest, log_softmax
from myllm.errors import EngineFault
from myllm.types import Delta, FinishReason, SamplingParams, TokenLogprob

LETTERS = FakeVocabulary()
BYTES = FakeVocabulary([bytes([byte]) for byte in range(256)])
PROMPT = [1, 2, 3]
TOLD = SamplingParams(temperature=0.0, num_logprobs=0)


def array(token_ids) -> np.ndarray:
    return np.array(token_ids, np.int32)


def run(context: FakeContext, params: SamplingParams, vocabulary: FakeVocabulary = LETTERS) -> list[Delta]:
    engine = Engine(vocabulary, context, name="fake", context_length=128, num_slots=len(context.slots), can_cut=True, max_gap_s=0.2)
    engine.add(0, array(PROMPT), params)
    deltas: list[Delta] = []
    while engine.has_work:
        deltas += engine.step()
    return deltas


def say(pieces: list[bytes], params: SamplingParams = TOLD) -> list[Delta]:
    """What comes of an answer in these pieces, each a token, with an end token after them."""
    vocabulary = FakeVocabulary([b"?", *pieces])
    context = FakeContext(vocab_size=vocabulary.vocab_size, next_token=answering(list(range(1, len(pieces) + 1)), 3, vocabulary.end_token))
    return run(context, params, vocabulary)


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas: list[Delta]) -> list[TokenLogprob]:
    return [token for delta in deltas for token in delta.logprobs]


def told(deltas: list[Delta]) -> list[tuple[str, bytes]]:
    return [(token.text, token.raw) for token in tokens_of(deltas)]


def reference(row: np.ndarray) -> np.ndarray:
    exact = row.astype(np.float64)
    return exact - exact.max() - math.log(np.exp(exact - exact.max()).sum())


def test_nothing_is_told_where_nothing_was_asked_for():
    deltas = say([b"a", b"b"], SamplingParams(temperature=0.0))

    assert text_of(deltas) == "ab"
    assert tokens_of(deltas) == []
    assert all(delta.prompt_logprobs == () for delta in deltas)


def test_each_token_is_told_with_its_text_and_the_end_token_is_not():
    deltas = say([b"a", b" b", b"c"])

    assert [(delta.text, told([delta])) for delta in deltas] == [
        ("a", [("a", b"a")]),
        (" b", [(" b", b" b")]),
        ("c", [("c", b"c")]),
        ("", []),
    ]


def test_a_log_probability_is_of_the_row_as_the_model_gave_it():
    """Before bias, penalties and temperature, which change the row in place."""
    context = FakeContext(next_token=answering(LETTERS.encode("Hello"), 3, LETTERS.end_token))
    params = SamplingParams(
        num_logprobs=3,
        temperature=1.7,
        seed=1,
        max_tokens=6,
        ignore_eos=True,
        logit_bias={5: 4.0},
        repeat_penalty=1.5,
        presence_penalty=1.0,
    )

    tokens = tokens_of(run(context, params))

    written = list(PROMPT)
    for token in tokens:
        expected = reference(context.row(written))
        order = np.argsort(-expected, kind="stable")[:3]
        assert token.logprob == pytest.approx(expected[token.token_id], abs=1e-5)
        assert [raw for raw, _ in token.top] == [LETTERS.label(likely) for likely in order]
        assert [value for _, value in token.top] == pytest.approx(expected[order], abs=1e-5)
        written.append(token.token_id)
    assert len(tokens) == 6
    assert any(token.logprob < token.top[0][1] for token in tokens)  # something else than the likeliest was drawn


def test_the_picked_token_alone_is_told_for_0():
    tokens = tokens_of(say([b"a"]))

    assert [(token.logprob < 0, token.top) for token in tokens] == [(True, ())]


def test_a_character_in_several_tokens_is_the_last_ones():
    deltas = run(FakeContext(vocab_size=257, next_token=answering(list("né😀".encode()), 3, BYTES.end_token)), TOLD, BYTES)

    assert [(delta.text, told([delta])) for delta in deltas] == [
        ("n", [("n", b"n")]),
        ("é", [("", b"\xc3"), ("é", b"\xa9")]),
        ("😀", [("", b"\xf0"), ("", b"\x9f"), ("", b"\x98"), ("😀", b"\x80")]),
        ("", []),
    ]


def test_tokens_of_a_character_that_was_never_whole_are_told_without_a_text():
    deltas = say([b"n", b"\xf0\x9f"])

    assert text_of(deltas) == "n"
    assert told(deltas) == [("n", b"n"), ("", b"\xf0\x9f")]
    assert deltas[-1].usage.completion_tokens == 3


def test_a_control_token_is_told_with_its_letters_and_adds_no_text():
    deltas = say([b"a", b"", b"b"])

    assert told(deltas) == [("a", b"a"), ("", b"<|2|>"), ("b", b"b")]


def test_likely_control_tokens_have_letters_too():
    tokens = tokens_of(say([b"", b"b"], TOLD.updated({"num_logprobs": 1})))

    assert tokens[0].top == ((b"<|1|>", tokens[0].logprob),)


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        ([b"one ", b"end", b"x"], "end", [("one ", b"one ")]),  # swallowed whole
        ([b"one ", b"e", b"nd"], "end", [("one ", b"one ")]),  # held back first
        ([b"one en", b"d"], "end", [("one ", b"one ")]),  # of one that was held back a part was shown before
        ([b"one", b" end of it"], "end", [("one", b"one"), (" ", b" ")]),  # straddles the cut
        ([b"end"], "end", []),
        ([b"1", b"\xc3", b"\xa9"], "é", [("1", b"1")]),  # a half character goes with the character that is swallowed
        ([b"1", b"\xc3", b"\xa9 end"], "end", [("1", b"1"), ("", b"\xc3"), ("é ", b"\xa9 ")]),
        ([b"1", b"", b"end"], "end", [("1", b"1")]),
        ([b"x\xff", b"yend"], "end", [("x\ufffd", b"x\xff"), ("y", b"y")]),
        ([b"\xc3", b"end"], "end", [("", b"\xc3"), ("\ufffd", b"")]),  # one byte ends a broken character and is one itself
        ([b"\xc3\xa9\xc3\xa9end"], "end", [("éé", "éé".encode())]),
    ],
)
def test_what_a_stop_string_swallows_is_not_told(pieces: list[bytes], stop: str, expected: list[tuple[str, bytes]]):
    deltas = say(pieces, TOLD.updated({"stop": (stop,)}))

    assert deltas[-1].finish is FinishReason.STOP
    assert told(deltas) == expected
    assert text_of(deltas) == "".join(text for text, _ in expected)


def test_text_that_was_held_back_for_a_stop_string_comes_with_its_tokens():
    deltas = say([b"a", b"e", b"n", b"o"], TOLD.updated({"stop": ("end",)}))

    assert [(delta.text, told([delta])) for delta in deltas] == [
        ("a", [("a", b"a")]),
        ("eno", [("e", b"e"), ("n", b"n"), ("o", b"o")]),
        ("", []),
    ]


def test_what_is_flushed_at_the_end_brings_its_tokens():
    deltas = say([b"a", b"e", b"n"], TOLD.updated({"stop": ("end",), "max_tokens": 3}))

    assert [(delta.text, told([delta])) for delta in deltas] == [("a", [("a", b"a")]), ("en", [("e", b"e"), ("n", b"n")])]


def test_a_token_is_told_with_the_last_of_its_text():
    deltas = say([b"ae", b"x"], TOLD.updated({"stop": ("end",)}))

    assert [(delta.text, told([delta])) for delta in deltas[:2]] == [("a", []), ("ex", [("ae", b"ae"), ("x", b"x")])]


PIECES = st.sampled_from([b"a", b"b", b"ab", b"\xc3", b"\xa9", b"\xc3\xa9a", b"\xf0\x9f", b"\x98\x80", b"\xff", b"", b"ba\xc3"])


@settings(derandomize=True, deadline=None, max_examples=600)
@given(
    st.lists(PIECES, max_size=9),
    st.lists(st.text("abé\ufffd😀", min_size=1, max_size=3), max_size=2),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_the_texts_of_the_tokens_are_the_text_however_it_is_cut(pieces: list[bytes], stop: list[str], max_tokens: int | None):
    deltas = say(pieces, TOLD.updated({"stop": tuple(stop), "max_tokens": max_tokens}))
    silent = say(pieces, SamplingParams(temperature=0.0, stop=tuple(stop), max_tokens=max_tokens))

    assert [(delta.text, delta.finish, delta.usage) for delta in deltas] == [(delta.text, delta.finish, delta.usage) for delta in silent]
    assert "".join(token.text for token in tokens_of(deltas)) == text_of(deltas)
    assert [token.token_id for token in tokens_of(deltas)] == list(range(1, len(tokens_of(deltas)) + 1))
    for end in range(len(deltas) + 1):
        assert text_of(deltas[:end]).startswith("".join(token.text for token in tokens_of(deltas[:end])))
    if not any(delta.finish is FinishReason.STOP for delta in deltas) or not stop:
        assert b"".join(token.raw for token in tokens_of(deltas) if not token.raw.startswith(b"<|")) == b"".join(pieces[:max_tokens])


def test_what_the_model_holds_impossible_has_a_number_that_json_knows():
    def corrupt(token_ids, row):
        row[7] = -math.inf

    tokens = tokens_of(run(FakeContext(corrupt=corrupt), TOLD.updated({"num_logprobs": 64, "max_tokens": 1, "ignore_eos": True})))

    assert tokens[0].top[-1] == (LETTERS.label(7), UNLIKELY)
    assert len(tokens[0].top) == 64


def test_a_row_without_numbers_fails_as_it_does_without_logprobs():
    def corrupt(token_ids, row):
        if len(token_ids) == 5:
            row[3] = math.nan

    deltas = run(FakeContext(corrupt=corrupt), TOLD.updated({"ignore_eos": True}))

    assert deltas[-1].error is not None and deltas[-1].error[0] == "engine_fault"
    assert len(tokens_of(deltas)) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_log_probability_is_made_of_what_is_no_number(bad: float):
    with pytest.raises(EngineFault, match="damaged"):
        log_softmax(np.array([1.0, bad, 2.0], np.float32))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 3e4, 1e37])
def test_log_probabilities_are_exact_and_finite_for_logits_of_any_size(scale: float):
    row = (np.random.default_rng(1).standard_normal(128_256) * scale).astype(np.float32)
    before = row.copy()

    found = log_softmax(row)

    np.testing.assert_allclose(found, reference(row), rtol=1e-5, atol=2e-5)
    assert np.array_equal(row, before)


@pytest.mark.parametrize("size", [1, 5, 300, 1280, 5_130, 32_000, 128_256])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
@pytest.mark.parametrize("num_values", [3, 1_000_000])
def test_the_likeliest_are_those_of_a_full_sort_and_ties_go_to_the_first(size: int, count: int, num_values: int):
    row = np.random.default_rng(size).integers(0, num_values, size).astype(np.float32)

    assert likeliest(row, count) == np.argsort(-row, kind="stable")[:count].tolist()
