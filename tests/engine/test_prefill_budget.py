from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from myllm.engine.prefill_budget import SMALLEST, PrefillBudget


def learnt(seconds_per_token: float, *, decode_s: float = 0.0, max_gap_s: float = 0.2, largest: int = 2048) -> PrefillBudget:
    """A budget that has seen enough steps of one kind and the other to be sure."""
    budget = PrefillBudget(max_gap_s, largest)
    for _ in range(50):
        budget.observe(0, 4, decode_s)
        budget.observe(256, 0, 256 * seconds_per_token)
    return budget


def test_before_anything_was_measured_a_stream_is_spared_more_than_an_idle_machine():
    budget = PrefillBudget(0.2, 2048)

    assert budget(True) == 128
    assert budget(False) == 512


def test_the_first_guess_is_within_the_largest():
    budget = PrefillBudget(0.2, 8)

    assert (budget(True), budget(False)) == (8, 8)


@pytest.mark.parametrize(("seconds_per_token", "expected"), [(0.2 / 300, 256), (0.2 / 256 * 0.999, 256), (0.2 / 100, 64)])
def test_the_tokens_that_fit_into_the_gap_are_rounded_down_to_a_power_of_two(seconds_per_token, expected):
    budget = learnt(seconds_per_token)

    assert budget(True) == expected


def test_the_time_that_decoding_takes_is_not_there_for_prompts():
    without = learnt(0.001)
    with_streams = learnt(0.001, decode_s=0.1)

    assert without(True) == 128
    assert with_streams(True) == 64


def test_without_streams_a_step_may_take_longer():
    budget = learnt(0.001)

    assert budget(False) == 512
    assert budget(False) > budget(True)


def test_a_machine_that_is_fast_gets_whole_batches():
    assert learnt(1e-7)(True) == 2048


def test_a_machine_that_is_slow_makes_progress_all_the_same():
    assert learnt(10.0)(True) == SMALLEST
    assert learnt(10.0, largest=8)(True) == 8


def test_decoding_that_takes_longer_than_the_gap_leaves_the_smallest_budget():
    assert learnt(0.001, decode_s=5.0)(True) == SMALLEST


def test_an_idle_gap_is_never_shorter_than_the_gap_of_a_stream():
    budget = PrefillBudget(3.0, 2048, idle_gap_s=1.0)

    assert budget.idle_gap_s == 3.0


def test_what_decode_rows_cost_is_not_blamed_on_the_prompt_beside_them():
    budget = learnt(0.001, decode_s=0.05)

    for _ in range(50):
        budget.observe(100, 4, 0.05 + 100 * 0.001)

    assert budget.seconds_per_token == pytest.approx(0.001)


def test_a_step_with_few_prompt_tokens_teaches_nothing_about_prompts():
    budget = learnt(0.001)

    budget.observe(SMALLEST - 1, 0, 100.0)

    assert budget.seconds_per_token == pytest.approx(0.001)


def test_one_slow_step_is_forgotten():
    budget = learnt(0.001)

    budget.observe(256, 0, 25.6)
    at_once = budget(True)
    for _ in range(20):
        budget.observe(256, 0, 0.256)

    assert at_once == SMALLEST
    assert budget(True) == 128


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 64), st.floats(0, 1e6))),
    st.integers(1, 4096),
    st.floats(1e-3, 1e4),
)
def test_whatever_was_measured_the_budget_is_within_bounds_and_repeats(observations, largest, max_gap_s):
    budget = PrefillBudget(max_gap_s, largest)

    for num_prefill, num_decode, seconds in observations:
        budget.observe(num_prefill, num_decode, seconds)
        for is_streaming in (True, False):
            tokens = budget(is_streaming)
            assert 1 <= tokens <= largest
            assert tokens == largest or tokens.bit_count() == 1
