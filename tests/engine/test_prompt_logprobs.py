"""Log probabilities of a prompt: every token is evaluated, in pieces that leave room for others, and told once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine.simulation import Simulation
from fakes import FakeContext, FakeVocabulary, answering

from myllm.engine.engine import Engine
from myllm.engine.sequence import SequenceStatus as S
from myllm.types import Delta, FinishReason, SamplingParams, TokenLogprob

LETTERS = FakeVocabulary()
GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
TOLD = GREEDY.updated({"prompt_logprobs": True, "num_logprobs": 2})


def array(token_ids) -> np.ndarray:
    return np.array(token_ids, np.int32)


def make(context: FakeContext, vocabulary: FakeVocabulary = LETTERS) -> Engine:
    return Engine(
        vocabulary,
        context,
        name="fake",
        context_length=128,
        num_slots=len(context.slots),
        can_cut=not context.is_recurrent,
        max_gap_s=0.2,
    )


def run(engine: Engine) -> list[Delta]:
    deltas: list[Delta] = []
    for _ in range(500):
        if not engine.has_work:
            return deltas
        deltas += engine.step()
        engine.cache.check_integrity()
    raise AssertionError("a livelock")


def prompt_of(deltas: list[Delta], id: int = 0) -> tuple[TokenLogprob, ...]:
    """From the one delta that told it, and before any text."""
    own = [delta for delta in deltas if delta.id == id]
    assert [bool(delta.prompt_logprobs) for delta in own] == [True] + [False] * (len(own) - 1)
    return own[0].prompt_logprobs


def log_probability(context: FakeContext, before: list[int], token_id: int) -> float:
    row = context.row(before).astype(np.float64)
    return float(row[token_id] - math.log(np.exp(row).sum()))


def assert_is_told(found: tuple[TokenLogprob, ...], context: FakeContext, prompt: list[int]) -> None:
    assert [token.token_id for token in found] == prompt
    assert found[0].logprob is None and found[0].top == ()
    for at in range(1, len(prompt)):
        assert found[at].logprob == pytest.approx(log_probability(context, prompt[:at], prompt[at]), abs=1e-5)


@pytest.mark.parametrize("is_recurrent", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 40])
def test_every_token_of_a_prompt_is_told_once_and_before_the_answer(length: int, is_recurrent: bool):
    context = FakeContext(2, max_rows=3, is_recurrent=is_recurrent)
    prompt = [at * 7 % 60 for at in range(length)]
    engine = make(context)
    engine.add(0, array(prompt), TOLD)

    deltas = run(engine)

    assert_is_told(prompt_of(deltas), context, prompt)
    assert all(len(token.top) == 2 for token in prompt_of(deltas)[1:])
    assert sum(len(delta.logprobs) for delta in deltas) == 3


def test_the_answer_is_told_only_where_that_was_asked_for():
    engine = make(FakeContext())
    engine.add(0, array([1, 2, 3]), GREEDY.updated({"prompt_logprobs": True}))

    deltas = run(engine)

    assert [token.top for token in prompt_of(deltas)] == [(), (), ()]
    assert all(delta.logprobs == () for delta in deltas)


def test_a_prompt_is_told_also_where_the_answer_ends_at_once():
    context = FakeContext(next_token=answering([], 3, LETTERS.end_token))
    engine = make(context)
    engine.add(0, array([1, 2, 3]), SamplingParams(temperature=0.0, prompt_logprobs=True))

    deltas = run(engine)

    assert [delta.finish for delta in deltas] == [FinishReason.STOP]
    assert_is_told(prompt_of(deltas), context, [1, 2, 3])


def test_texts_of_a_prompts_tokens_are_the_prompt():
    vocabulary = FakeVocabulary([*(bytes([byte]) for byte in range(256)), b""])
    vocabulary.bos_id = 256
    context = FakeContext(vocab_size=vocabulary.vocab_size)
    engine = make(context, vocabulary)
    engine.add(0, array([256, *"é<".encode(), 256, *b"x", 0xC3]), TOLD)

    found = prompt_of(run(engine))

    assert [token.text for token in found] == ["", "", "é", "<", "<|256|>", "x", ""]
    assert found[0].raw == b"<|256|>"


def test_nothing_of_such_a_prompt_comes_from_the_cache_and_others_may_start_from_it():
    context = FakeContext()
    engine = make(context)
    prompt = [5, 6, 7, 8, 9]
    for id, params in enumerate((GREEDY, TOLD, GREEDY)):
        engine.add(id, array(prompt), params)
        deltas = run(engine)
        if id == 1:
            assert_is_told(prompt_of(deltas, 1), context, prompt)
        assert deltas[-1].usage.cached_tokens == (0, 0, 4)[id]


def test_a_running_one_shares_its_cells():
    simulation = Simulation(prefill_tokens=64, max_rows=40)
    first = simulation.add([1] * 30, 9, wants_prompt_rows=True)
    simulation.step()
    second = simulation.add([*[1] * 30, 2])

    simulation.run()

    assert second.num_cached_tokens == 30
    assert simulation.rows[first] == list(range(38))


def test_it_waits_for_no_prefix_of_another():
    simulation = Simulation(num_cells=200, batch_tokens=100, prefill_tokens=100)
    simulation.add([1] * 40)
    told = simulation.add([1] * 40, wants_prompt_rows=True)
    other = simulation.add([1] * 40)

    simulation.step()

    assert (told.status, other.status) == (S.PREFILL, S.WAITING)


def test_streams_go_on_while_a_prompt_is_told():
    simulation = Simulation(num_slots=4, num_cells=200, max_rows=6)
    streams = [simulation.add([id, 1], 30) for id in (3, 4, 5)]
    simulation.step()
    told = simulation.add([2] * 20, wants_prompt_rows=True)

    simulation.step()
    simulation.step()

    assert [seq.num_output_tokens for seq in streams] == [3, 3, 3]
    assert simulation.rows[told] == list(range(6))  # three rows a step: what the streams leave
    simulation.run()


def test_a_short_prompt_is_not_held_up_by_a_long_one_that_takes_all_rows():
    simulation = Simulation(num_slots=3, num_cells=200, prefill_tokens=30, max_rows=5)
    long = simulation.add([1] * 40, wants_prompt_rows=True)
    simulation.step()
    short = simulation.add([2] * 6)

    simulation.step()

    assert long.status is S.PREFILL
    assert short.num_output_tokens == 1
    simulation.run()


def test_alone_it_takes_all_the_rows_there_are():
    simulation = Simulation(num_slots=4, max_rows=9)
    seq = simulation.add([1] * 20, wants_prompt_rows=True)

    simulation.step()

    assert len(simulation.rows[seq]) == 9
    simulation.run()
    assert [len(batch.with_rows()) for batch in simulation.batches[:3]] == [1, 1, 1]


@pytest.mark.parametrize("is_recurrent", [False, True])
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_one_that_is_put_out_in_its_prompt_goes_on_where_it_was(is_recurrent: bool, is_forgotten: bool):
    """Also where others needed its cells meanwhile, so that a part of the prompt is evaluated twice, and told once."""
    context = FakeContext(2, 40, 4, max_rows=4, is_recurrent=is_recurrent)
    engine = make(context)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
    engine.add(0, array([8, 8, 8]), GREEDY.updated({"max_tokens": 15}))
    engine.step()
    engine.add(1, array(prompt), TOLD.updated({"max_tokens": 5}))
    deltas = [delta for _ in range(4) for delta in engine.step()]
    told = engine.sequences[1]
    rows = told.num_prompt_rows

    engine.scheduler.preempt(told)
    if is_forgotten:
        engine.cache.clear()
    deltas += run(engine)

    assert 2 * context.batch_tokens < rows < len(prompt)
    assert_is_told(prompt_of(deltas, 1), context, prompt)


@pytest.mark.parametrize("at", [2, 6, 9])
def test_a_broken_row_of_a_prompt_fails_its_sequence_and_no_other(at: int):
    def corrupt(token_ids, row):
        if token_ids[:2] == [9, 9] and len(token_ids) == at:
            row[3] = math.nan

    engine = make(FakeContext(max_rows=5, corrupt=corrupt))
    engine.add(0, array([9] * 9), TOLD)
    engine.add(1, array([1, 2, 3]), TOLD)

    deltas = run(engine)

    (failed,) = [delta for delta in deltas if delta.id == 0]
    assert failed.error is not None and failed.error[0] == "engine_fault"
    assert failed.prompt_logprobs == () or at == 9
    assert len(prompt_of(deltas, 1)) == 3


def test_only_picked_tokens_are_counted_as_generated():
    engine = make(FakeContext(max_rows=5))
    engine.add(0, array([9] * 9), TOLD)

    run(engine)

    assert (engine.num_prompt_tokens, engine.num_generated_tokens) == (9, 3)
