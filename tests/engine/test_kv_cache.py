from __future__ import annotations

import numpy as np
import pytest
from fakes import Cell, FakeMemory
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from myllm.engine.kv_cache import KVCache

TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=8)


class Bench:
    """A cache with a memory that computes at once whatever is scheduled."""

    def __init__(self, num_slots: int = 3, num_cells: int = 20, *, can_cut: bool = True) -> None:
        self.memory = FakeMemory(num_slots, is_recurrent=not can_cut)
        self.cache = KVCache(num_slots, num_cells, self.memory, can_cut=can_cut)

    def allocate(self, *token_ids: int) -> tuple[int, int] | None:
        allocation = self.cache.allocate(array(token_ids))
        self.cache.check_integrity()
        return allocation

    def compute(self, slot: int, *token_ids: int) -> bool:
        if not self.cache.extend(slot, array(token_ids)):
            return False
        self.memory.slots[slot] += [Cell(token_id) for token_id in token_ids]
        self.cache.commit(slot)
        self.cache.check_integrity()
        return True

    def run(self, *token_ids: int) -> int:
        """Admit and compute a whole sequence; returns its slot."""
        allocation = self.allocate(*token_ids)
        assert allocation is not None
        slot, cached = allocation
        assert self.compute(slot, *token_ids[cached:])
        return slot

    def run_and_release(self, *token_ids: int) -> int:
        slot = self.run(*token_ids)
        self.cache.release(slot)
        return slot

    def held(self) -> list[list[int]]:
        return [self.memory.tokens(slot.index) for slot in self.cache.slots]


def array(token_ids) -> np.ndarray:
    return np.array(token_ids, dtype=np.int32)


def test_released_tokens_are_reused():
    bench = Bench()
    slot = bench.run_and_release(1, 2, 3)

    assert bench.allocate(1, 2, 3, 4, 5) == (slot, 3)
    assert bench.memory.copies == []  # continued in place


def test_the_last_token_of_a_prompt_is_always_computed():
    """Logits come only from a decode: a prompt that is in the cache as a whole still leaves one token to evaluate."""
    bench = Bench()
    slot = bench.run_and_release(1, 2, 3)

    _, cached = bench.allocate(1, 2, 3)

    assert cached == 2
    assert bench.memory.tokens(slot) == [1, 2, 3]  # and the others keep what they could still need


def test_a_prefix_of_a_running_sequence_is_shared_without_new_cells():
    bench = Bench()
    bench.run(1, 2, 3, 4)

    assert bench.allocate(1, 2, 3, 9) == (1, 3)
    assert bench.cache.num_used == bench.memory.num_used == 4


def test_a_prefix_is_copied_only_as_far_as_it_was_computed():
    bench = Bench()
    slot, _ = bench.allocate(1, 2, 3, 4)
    bench.compute(slot, 1, 2)
    bench.cache.extend(slot, array([3, 4]))  # scheduled, not computed

    assert bench.allocate(1, 2, 3, 4) == (1, 2)


def test_a_slot_whose_rest_others_may_need_is_not_cut_down_but_shared():
    bench = Bench()
    bench.run_and_release(1, 2, 3, 4, 5)

    assert bench.allocate(1, 2, 9) == (1, 2)
    assert bench.held() == [[1, 2, 3, 4, 5], [1, 2], []]


def test_a_slot_is_cut_where_no_other_is_left():
    bench = Bench(num_slots=1)
    bench.run_and_release(1, 2, 3, 4, 5)

    assert bench.allocate(1, 2, 9) == (0, 2)
    assert bench.held() == [[1, 2]]
    assert bench.cache.num_used == 2


def test_the_longest_prefix_wins():
    bench = Bench()
    bench.run_and_release(1, 2, 8)
    bench.run(1, 2, 3, 4)

    slot, cached = bench.allocate(1, 2, 3, 4, 5)

    assert (slot, cached) == (2, 4)


def test_no_slot_idle_is_none():
    bench = Bench(num_slots=2)
    bench.run(1)
    bench.run(2)

    assert bench.allocate(3) is None


def test_an_empty_slot_is_taken_before_one_that_remembers():
    bench = Bench()
    bench.run_and_release(1, 2)

    assert bench.allocate(7, 8) == (1, 0)
    assert bench.held()[0] == [1, 2]


def test_the_slot_that_was_used_least_recently_is_taken_first():
    bench = Bench(num_slots=2)
    bench.run_and_release(1, 1)
    bench.run_and_release(2, 2)
    bench.cache.release(bench.allocate(1, 1, 1)[0])  # now the first was used last

    assert bench.allocate(7, 8) == (1, 0)


def test_idle_slots_are_evicted_least_recently_used_first():
    bench = Bench(num_slots=3, num_cells=6)
    bench.run_and_release(1, 1)
    bench.run_and_release(2, 2)
    bench.cache.release(bench.allocate(1, 1, 1)[0])

    slot, _ = bench.allocate(7, 7, 7, 7)

    assert bench.compute(slot, 7, 7, 7, 7)
    assert bench.held() == [[1, 1], [], [7, 7, 7, 7]]


def test_no_room_beside_the_running_is_false_and_takes_nothing():
    bench = Bench(num_slots=2, num_cells=4)
    bench.run(1, 1, 1)
    slot, _ = bench.allocate(2, 2)

    assert not bench.compute(slot, 2, 2)
    bench.cache.check_integrity()
    assert bench.cache.num_used == 3


def test_cells_of_a_shared_prefix_stay_until_the_last_holder_goes():
    bench = Bench(num_slots=2, num_cells=6)
    first = bench.run(1, 2, 3, 4)
    second, _ = bench.allocate(1, 2, 3, 9)
    bench.cache.release(first)
    bench.compute(second, 9)

    bench.compute(second, 5, 5)  # evicts the first, of which only one cell was its own

    assert bench.held() == [[], [1, 2, 3, 9, 5, 5]]
    assert bench.cache.num_used == bench.memory.num_used == 6


def test_rolled_back_tokens_give_their_cells_back():
    bench = Bench()
    slot = bench.run(1, 2)
    bench.cache.extend(slot, array([3, 4]))

    bench.cache.roll_back(slot)

    bench.cache.check_integrity()
    assert bench.cache.slots[slot].tokens.view.tolist() == bench.memory.tokens(slot) == [1, 2]
    assert bench.cache.num_used == 2


def test_rolling_back_what_was_not_extended_changes_nothing():
    bench = Bench()
    slot = bench.run(1, 2)

    bench.cache.roll_back(slot)

    assert bench.cache.slots[slot].tokens.view.tolist() == [1, 2]


def test_a_slot_is_not_released_with_tokens_in_flight():
    bench = Bench()
    slot = bench.run(1, 2)
    bench.cache.extend(slot, array([3]))

    with pytest.raises(AssertionError, match="in flight"):
        bench.cache.release(slot)


def test_a_slot_is_not_released_twice():
    bench = Bench()
    slot = bench.run_and_release(1, 2)

    with pytest.raises(AssertionError):
        bench.cache.release(slot)


def test_clear_forgets_the_idle_and_keeps_the_running():
    bench = Bench()
    bench.run(1, 2)
    bench.run_and_release(3, 4)

    bench.cache.clear()

    assert bench.held() == [[1, 2], [], []]
    bench.cache.check_integrity()


def test_what_is_available_counts_idle_cells_and_not_those_that_a_running_one_shares():
    bench = Bench(num_slots=3, num_cells=10)
    bench.run_and_release(1, 2, 3, 4)
    bench.run(1, 2, 9)

    assert bench.cache.num_used == 5
    assert bench.cache.num_available == 10 - 3


@pytest.mark.parametrize(("length", "fits"), [(6, True), (7, False)])
def test_a_prompt_fits_beside_the_running(length, fits):
    bench = Bench(num_slots=3, num_cells=10)
    bench.run(1, 1, 1, 1)
    bench.run_and_release(2, 2)

    assert bench.cache.fits(array([7] * length)) is fits


@pytest.mark.parametrize(("length", "fits"), [(10, True), (11, False)])
def test_a_prompt_that_shares_with_a_running_one_needs_room_only_for_the_rest(length, fits):
    bench = Bench(num_slots=3, num_cells=10)
    bench.run(1, 1, 1, 1)

    assert bench.cache.fits(array([1] * 4 + [7] * (length - 4))) is fits


def test_a_prompt_does_not_fit_by_a_prefix_that_it_will_not_use():
    """Two slots computed the same beginning apart. The newcomer continues the idle one, so the running one's cells do not help."""
    bench = Bench(num_slots=3, num_cells=20)
    first, second = bench.allocate(1, 1, 1, 1, 5)[0], bench.allocate(1, 1, 1, 1, 6)[0]
    bench.compute(first, 1, 1, 1, 1, 5)
    bench.compute(second, 1, 1, 1, 1, 6)
    bench.cache.release(second)
    newcomer = array([1, 1, 1, 1, 6] + [7] * 11)

    assert bench.cache.num_available == 15
    assert not bench.cache.fits(newcomer)
    assert bench.cache.fits(newcomer[:15])


def test_a_recurrent_slot_is_reused_as_a_whole():
    bench = Bench(can_cut=False)
    bench.run_and_release(1, 2, 3)

    assert bench.allocate(1, 2, 3, 4) == (0, 3)


@pytest.mark.parametrize("token_ids", [(1, 2, 9), (1, 2, 3), (1, 2)])
def test_a_recurrent_slot_is_never_cut_or_copied(token_ids):
    bench = Bench(can_cut=False)
    bench.run_and_release(1, 2, 3)

    slot, cached = bench.allocate(*token_ids)

    assert (slot, cached) == (1, 0)
    assert bench.held()[0] == [1, 2, 3]


def test_a_recurrent_slot_is_not_shared_while_it_runs():
    bench = Bench(can_cut=False)
    bench.run(1, 2, 3)

    assert bench.allocate(1, 2, 3, 4) == (1, 0)


def test_a_memory_that_refuses_a_cut_after_all_starts_from_nothing():
    """The model claims that it can cut, and llama.cpp says no: nothing of the slot may be believed."""
    bench = Bench(num_slots=1)
    bench.run_and_release(1, 2, 3)
    bench.memory.is_recurrent = True

    assert bench.allocate(1, 2, 9) == (0, 0)
    assert bench.held() == [[]]


class CacheAgainstTheMemory(RuleBasedStateMachine):
    """Random calls in any order that the cache allows: its books always say what the memory holds."""

    @initialize(num_slots=st.integers(1, 4), num_cells=st.integers(1, 24), can_cut=st.booleans())
    def start(self, num_slots: int, num_cells: int, can_cut: bool) -> None:
        self.bench = Bench(num_slots, num_cells, can_cut=can_cut)
        self.busy: list[int] = []

    @rule(token_ids=TOKENS)
    def allocate(self, token_ids: list[int]) -> None:
        cache = self.bench.cache
        fits = cache.fits(array(token_ids))
        allocation = cache.allocate(array(token_ids))
        if allocation is None:
            assert len(self.busy) == len(cache.slots)
            return
        slot, cached = allocation
        assert cached < len(token_ids)
        assert self.bench.memory.tokens(slot) == token_ids[:cached]
        self.busy.append(slot)
        assert fits == (len(token_ids) - cached <= cache.num_available)

    @rule(token_ids=TOKENS, pick=st.integers(0, 3), is_refused=st.booleans())
    def extend(self, token_ids: list[int], pick: int, is_refused: bool) -> None:
        if not self.busy:
            return
        slot = self.busy[pick % len(self.busy)]
        had_room = len(token_ids) <= self.bench.cache.num_available
        if is_refused:
            assert self.bench.cache.extend(slot, array(token_ids)) == had_room
            self.bench.cache.roll_back(slot)
        else:
            assert self.bench.compute(slot, *token_ids) == had_room

    @rule(pick=st.integers(0, 3))
    def release(self, pick: int) -> None:
        if self.busy:
            self.bench.cache.release(self.busy.pop(pick % len(self.busy)))

    @rule()
    def clear(self) -> None:
        self.bench.cache.clear()

    @invariant()
    def the_books_agree_with_the_memory(self) -> None:
        if not hasattr(self, "bench"):
            return
        cache, memory = self.bench.cache, self.bench.memory
        cache.check_integrity()
        assert [slot.tokens.view.tolist() for slot in cache.slots] == self.bench.held()
        assert [slot.index for slot in cache.slots if slot.is_busy] == sorted(self.busy)
        assert cache.num_used == memory.num_used <= cache.num_cells
        assert cache.num_idle_slots == len(cache.slots) - len(self.busy)


TestCacheAgainstTheMemory = CacheAgainstTheMemory.TestCase
TestCacheAgainstTheMemory.settings = settings(max_examples=100, stateful_step_count=25, derandomize=True, deadline=None)
