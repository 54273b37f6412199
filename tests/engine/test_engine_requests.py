"""What the engine refuses before it is queued, and what it counts."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeContext, FakeVocabulary

from myllm.engine import engine as engine_module
from myllm.engine.engine import Engine, TokenRate
from myllm.errors import ContextLengthExceeded, InvalidRequest
from myllm.types import Delta, FinishReason, SamplingParams

PROMPT = [1, 2, 3]
GREEDY = SamplingParams(temperature=0.0)


def array(token_ids) -> np.ndarray:
    return np.array(token_ids, np.int32)


def make(*, num_slots: int = 4, context_length: int = 128) -> Engine:
    context = FakeContext(num_slots)
    return Engine(FakeVocabulary(), context, name="fake", context_length=context_length, num_slots=num_slots, can_cut=True, max_gap_s=0.2)


def run(engine: Engine) -> list[Delta]:
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    return deltas


def test_an_empty_prompt_is_refused():
    with pytest.raises(InvalidRequest, match="empty"):
        make().check(array([]), GREEDY)


@pytest.mark.parametrize("length", [20, 21, 100_000])
def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_with_both_numbers(length):
    with pytest.raises(ContextLengthExceeded) as refused:
        make(context_length=20).check(array([1] * length), GREEDY)

    assert f"{length:,} tokens" in refused.value.message
    assert "'fake' takes 20" in refused.value.message
    assert refused.value.param == "messages"


def test_the_longest_prompt_that_fits_is_taken():
    engine = make(context_length=20)
    prompt = array([1] * 19)

    engine.check(prompt, GREEDY)
    engine.add(0, prompt, GREEDY)

    last = run(engine)[-1]
    assert (last.finish, last.usage.completion_tokens) == (FinishReason.LENGTH, 1)


@pytest.mark.parametrize("token_id", [-1, 64, 2**31, -(2**31) - 1, 2**63, 2**64, -(2**100)])
def test_tokens_outside_of_the_vocabulary_are_refused(token_id):
    """llama.cpp refuses the whole batch for one of them; those beyond 64 bits were an internal error."""
    with pytest.raises(InvalidRequest, match="0 to 63") as in_bias:
        make().check(array(PROMPT), GREEDY.updated({"logit_bias": {token_id: 1.0}}))
    with pytest.raises(InvalidRequest, match="0 to 63") as in_prompt:
        engine_module.check_token_ids([1, token_id], 64, "prompt")

    assert (in_bias.value.param, in_prompt.value.param) == ("logit_bias", "prompt")


def test_tokens_at_the_edges_of_the_vocabulary_are_taken():
    make().check(array([0, 63]), GREEDY.updated({"logit_bias": {0: 1.0, 63: -1.0}}))


def test_stats_of_an_engine_that_did_nothing():
    stats = make().stats()

    assert (stats.running, stats.waiting, stats.cells_used, stats.prompt_tokens, stats.generated_tokens) == (0, 0, 0, 0, 0)
    assert stats.tokens_per_second == 0.0


def test_stats_count_what_runs_waits_and_was_done():
    engine = make(num_slots=2)
    for id in range(3):
        engine.add(id, array([id, 7, 8]), GREEDY.updated({"max_tokens": 4, "ignore_eos": True}))
    engine.step()

    during = engine.stats()
    run(engine)
    after = engine.stats()

    assert (during.running, during.waiting, during.cells_used) == (2, 1, 6)
    assert (after.running, after.waiting) == (0, 0)
    assert (after.prompt_tokens, after.generated_tokens, after.cached_tokens) == (9, 12, 0)


def test_stats_count_a_prompt_of_one_token_as_a_prompt():
    """A chunk of one token was taken for a decoded one, so a cached prompt's last token was none of the prompt's."""
    engine = make()
    engine.add(0, array([5]), GREEDY.updated({"max_tokens": 3, "ignore_eos": True}))
    run(engine)
    engine.add(1, array([5, 6, 7]), GREEDY.updated({"max_tokens": 1}))
    run(engine)
    engine.add(2, array([5, 6, 7]), GREEDY.updated({"max_tokens": 1}))
    run(engine)

    stats = engine.stats()
    assert stats.prompt_tokens + stats.cached_tokens == 1 + 3 + 3


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(engine_module.time, "monotonic", clock)
    return clock


def test_the_rate_is_tokens_over_the_last_window(clock):
    rate = TokenRate(window_s=2.0)

    for _ in range(4):
        clock.now += 0.5
        rate.add(10)

    assert rate.per_second() == pytest.approx(20)


def test_the_rate_is_0_when_nothing_was_generated_for_a_while(clock):
    rate = TokenRate(window_s=2.0)
    clock.now += 2
    rate.add(10)

    at_once = rate.per_second()
    clock.now += 4

    assert at_once > 0
    assert rate.per_second() == 0.0
