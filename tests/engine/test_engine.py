"""The whole engine on the fake context: only llama.cpp's arithmetic is missing, its sampler chain is real."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import FakeContext, FakeVocabulary, alone, answering

from myllm.engine.engine import Engine
from myllm.errors import EngineFault
from myllm.types import Delta, FinishReason, SamplingParams, Usage

VOCABULARY = FakeVocabulary()
PROMPT = [1, 2, 3]
GREEDY = SamplingParams(temperature=0.0)


def array(token_ids) -> np.ndarray:
    return np.array(token_ids, np.int32)


def make(context: FakeContext | None = None, *, vocabulary: FakeVocabulary = VOCABULARY, context_length: int = 128) -> Engine:
    context = context or FakeContext(vocab_size=vocabulary.vocab_size)
    return Engine(
        vocabulary,
        context,
        name="fake",
        context_length=context_length,
        num_slots=len(context.slots),
        can_cut=not context.is_recurrent,
        max_gap_s=0.2,
    )


def saying(text: str, *, num_prompt_tokens: int = len(PROMPT), vocabulary: FakeVocabulary = VOCABULARY, **kwargs) -> FakeContext:
    """A context whose model answers `text` and ends."""
    return FakeContext(next_token=answering(vocabulary.encode(text), num_prompt_tokens, vocabulary.end_token), **kwargs)


def run(engine: Engine, *, within: int = 2000) -> list[Delta]:
    deltas = []
    for _ in range(within):
        if not engine.has_work:
            return deltas
        deltas += engine.step()
        engine.cache.check_integrity()
    raise AssertionError("a livelock")


def text_of(deltas: list[Delta], id: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.id == id)


def end_of(deltas: list[Delta], id: int = 0) -> Delta:
    """The last delta of a request; the only one with a reason."""
    own = [delta for delta in deltas if delta.id == id]
    assert [delta.finish is not None for delta in own] == [False] * (len(own) - 1) + [True]
    return own[-1]


def greedy_text(prompt: list[int], max_tokens: int, context: FakeContext) -> str:
    token_ids = alone(prompt, max_tokens, context.next_token)[len(prompt) :]
    if VOCABULARY.end_token in token_ids:
        token_ids = token_ids[: token_ids.index(VOCABULARY.end_token)]
    return b"".join(map(VOCABULARY.piece, token_ids)).decode()


def test_an_answer_ends_at_the_end_token():
    engine = make(saying("Hello"))
    engine.add(0, array(PROMPT), GREEDY)

    deltas = run(engine)

    assert text_of(deltas) == "Hello"
    assert end_of(deltas).finish is FinishReason.STOP
    assert end_of(deltas).usage == Usage(prompt_tokens=3, completion_tokens=6, cached_tokens=0)


def test_every_step_gives_what_it_made_certain():
    engine = make(saying("abc"))
    engine.add(0, array(PROMPT), GREEDY)

    assert [[delta.text for delta in engine.step()] for _ in range(4)] == [["a"], ["b"], ["c"], [""]]
    assert not engine.has_work


def test_an_answer_ends_at_max_tokens():
    engine = make(saying("Hello"))
    engine.add(0, array(PROMPT), GREEDY.updated({"max_tokens": 2}))

    deltas = run(engine)

    assert text_of(deltas) == "He"
    assert end_of(deltas).finish is FinishReason.LENGTH
    assert end_of(deltas).usage == Usage(3, 2, 0)


def test_an_end_token_at_the_last_allowed_place_is_a_stop():
    engine = make(saying("Hi"))
    engine.add(0, array(PROMPT), GREEDY.updated({"max_tokens": 3}))

    assert end_of(run(engine)).finish is FinishReason.STOP


@pytest.mark.parametrize("max_tokens", [None, 17, 18, 1_000_000])
def test_max_tokens_beyond_the_context_ends_with_length_at_its_edge(max_tokens):
    engine = make(saying("x" * 100), context_length=20)
    engine.add(0, array(PROMPT), GREEDY.updated({"max_tokens": max_tokens}))

    deltas = run(engine)

    assert end_of(deltas).finish is FinishReason.LENGTH
    assert end_of(deltas).usage == Usage(3, 17, 0)


def test_a_sequence_alone_in_too_small_a_cache_ends_with_length():
    engine = make(saying("x" * 100, num_cells=10), context_length=64)
    engine.add(0, array(PROMPT), GREEDY)

    deltas = run(engine)

    assert end_of(deltas).finish is FinishReason.LENGTH
    assert text_of(deltas) == "x" * 8


def test_text_stops_before_a_stop_string():
    engine = make(saying("one end two"))
    engine.add(0, array(PROMPT), GREEDY.updated({"stop": ("end",)}))

    deltas = run(engine)

    assert text_of(deltas) == "one "
    assert end_of(deltas).finish is FinishReason.STOP
    assert end_of(deltas).usage == Usage(3, 7, 0)


def test_the_last_delta_names_the_stop_string_that_ended_the_text():
    engine = make(saying("one end two"))
    engine.add(0, array(PROMPT), GREEDY.updated({"stop": ("two", "end")}))

    deltas = run(engine)

    assert end_of(deltas).stop_string == "end"


def test_what_looked_like_a_stop_string_is_shown_when_max_tokens_cut_it_off():
    engine = make(saying("one end"))
    engine.add(0, array(PROMPT), GREEDY.updated({"stop": ("end",), "max_tokens": 6}))

    assert text_of(run(engine)) == "one en"


def test_a_stop_string_at_the_very_last_token_is_a_stop():
    engine = make(saying("one end"))
    engine.add(0, array(PROMPT), GREEDY.updated({"stop": ("end",), "max_tokens": 7}))

    deltas = run(engine)

    assert (text_of(deltas), end_of(deltas).finish) == ("one ", FinishReason.STOP)


def test_a_character_in_several_tokens_comes_whole():
    vocabulary = FakeVocabulary([bytes([byte]) for byte in range(256)])
    answer = list("né😀".encode())
    engine = make(FakeContext(vocab_size=257, next_token=answering(answer, 3, vocabulary.end_token)), vocabulary=vocabulary)
    engine.add(0, array(PROMPT), GREEDY)

    assert [delta.text for delta in run(engine)] == ["n", "é", "😀", ""]


def test_a_character_that_max_tokens_cut_in_half_is_not_shown():
    vocabulary = FakeVocabulary([bytes([byte]) for byte in range(256)])
    engine = make(FakeContext(vocab_size=257, next_token=answering(list("n😀".encode()), 3, 256)), vocabulary=vocabulary)
    engine.add(0, array(PROMPT), GREEDY.updated({"max_tokens": 3}))

    assert text_of(run(engine)) == "n"


def test_what_was_said_is_penalised():
    engine = make(saying("x" * 20))
    engine.add(0, array(PROMPT), GREEDY.updated({"frequency_penalty": 1.0, "max_tokens": 12}))

    text = text_of(run(engine))

    assert text.startswith("xx")  # 5.0 against 3.0 at most, less one for each
    assert 2 <= text.count("x") < 6


def test_ignore_eos_goes_on_to_the_end_of_the_room():
    engine = make(saying("Hi"))
    engine.add(0, array(PROMPT), GREEDY.updated({"ignore_eos": True, "max_tokens": 10}))

    deltas = run(engine)

    assert text_of(deltas).startswith("Hi")
    assert end_of(deltas).usage == Usage(3, 10, 0)


def test_suppressed_tokens_of_a_vocabulary_are_never_said():
    vocabulary = FakeVocabulary(suppressed=(VOCABULARY.encode("e")[0],))
    engine = make(saying("Hello"), vocabulary=vocabulary)
    engine.add(0, array(PROMPT), GREEDY.updated({"max_tokens": 5}))

    assert "e" not in text_of(run(engine))


def test_a_cancelled_request_says_nothing_more_and_leaves_at_once():
    engine = make(saying("Hello", num_slots=1))
    engine.add(0, array(PROMPT), GREEDY)
    engine.add(1, array([4, 5, 6]), GREEDY)
    engine.step()

    engine.cancel(0)

    deltas = engine.step()
    assert [delta.id for delta in deltas] == [1]
    assert 0 not in engine.sequences


def test_a_request_can_be_cancelled_before_it_ran():
    engine = make()
    engine.add(0, array(PROMPT), GREEDY)

    engine.cancel(0)

    assert not engine.has_work
    assert engine.step() == []


def test_cancelling_what_is_unknown_or_over_is_ignored():
    engine = make(saying("Hi"))
    engine.add(0, array(PROMPT), GREEDY)
    run(engine)

    engine.cancel(0)
    engine.cancel(99)

    assert not engine.has_work


def test_the_whole_conversation_before_is_cached_and_counted():
    engine = make(FakeContext())
    engine.add(0, array(PROMPT), GREEDY.updated({"max_tokens": 5, "ignore_eos": True}))
    first = engine.sequences[0]
    run(engine)

    engine.add(1, array([*first.token_ids, 9]), GREEDY.updated({"max_tokens": 2, "ignore_eos": True}))

    assert end_of(run(engine), 1).usage == Usage(9, 2, 7)


def test_a_broken_row_fails_its_sequence_and_no_other():
    def corrupt(token_ids, row):
        if token_ids[0] == 9 and len(token_ids) == 5:
            row[3] = math.nan

    context = FakeContext(corrupt=corrupt)
    engine = make(context)
    engine.add(0, array([9, 9, 9]), GREEDY.updated({"max_tokens": 8, "ignore_eos": True}))
    engine.add(1, array([1, 2, 3]), GREEDY.updated({"max_tokens": 8}))

    deltas = run(engine)

    code, message = end_of(deltas, 0).error
    assert code == "engine_fault" and "damaged" in message
    assert end_of(deltas, 0).usage == Usage(3, 2, 0)
    assert end_of(deltas, 1).error is None
    assert text_of(deltas, 1) == greedy_text([1, 2, 3], 8, context)


def test_nothing_that_a_broken_sequence_computed_is_given_to_others():
    """Its keys and values are what the next one with the same prompt would have started from."""
    is_broken = [True]
    engine = make(FakeContext(corrupt=lambda token_ids, row: row.fill(math.nan) if is_broken[0] else None))
    engine.add(0, array(PROMPT), GREEDY)
    run(engine)
    is_broken[0] = False

    engine.add(1, array(PROMPT), GREEDY.updated({"max_tokens": 2}))

    deltas = run(engine)
    assert end_of(deltas, 1).usage.cached_tokens == 0
    assert end_of(deltas, 1).error is None


def test_a_decode_whose_outcome_is_unknown_is_not_survived():
    class Broken(FakeContext):
        def decode(self, batch):
            raise EngineFault("llama_decode failed with code -3")

    engine = make(Broken())
    engine.add(0, array(PROMPT), GREEDY)

    with pytest.raises(EngineFault, match="code -3"):
        engine.step()


def test_a_refused_decode_is_tried_again():
    refusals = iter([False, False, True, True, False, True])
    context = FakeContext(is_refused=lambda: next(refusals, False))
    engine = make(context)
    for id in range(3):
        engine.add(id, array([id, 7, 8]), GREEDY.updated({"max_tokens": 6}))

    deltas = run(engine)

    assert context.num_refused == 3
    assert [text_of(deltas, id) for id in range(3)] == [greedy_text([id, 7, 8], 6, context) for id in range(3)]


WARM = SamplingParams(temperature=1.0, top_p=1.0, repeat_penalty=1.3, penalty_last_n=8, max_tokens=20, ignore_eos=True)


@pytest.mark.parametrize("is_recurrent", [False, True])
def test_what_is_sampled_does_not_depend_on_who_else_is_there_even_when_put_out(is_recurrent):
    """Seed, penalties and held text ride along with a preempted sequence."""
    prompts = [[id, *PROMPT * (id % 3 + 1)] for id in range(8)]
    params = [WARM.updated({"seed": id, "stop": ("aa", "Qx")}) for id in range(8)]

    alone_texts = []
    for id in range(8):
        engine = make(FakeContext(is_recurrent=is_recurrent))
        engine.add(id, array(prompts[id]), params[id])
        alone_texts.append(text_of(run(engine), id))
    together = make(FakeContext(4, 60, 16, is_recurrent=is_recurrent))
    for id in range(8):
        together.add(id, array(prompts[id]), params[id])
    deltas = run(together)

    assert together.stats().preemptions > 0
    assert [text_of(deltas, id) for id in range(8)] == alone_texts
    assert len(set(alone_texts)) == 8
