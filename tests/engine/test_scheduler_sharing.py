"""Prefixes shared between sequences, whole slots of recurrent models, and what all that costs in Python."""

from __future__ import annotations

import pytest
from engine.instructions import count_instructions
from engine.simulation import VOCAB, Simulation
from fakes import FakeContext, alone, hashed

from myllm.engine.sequence import Batch, Sequence, SequenceStatus as S
from myllm.types import FinishReason

NEXT = hashed(VOCAB)
LETTERS = list(range(VOCAB))


def chunks(batch: Batch) -> list[tuple[int, int]]:
    """(sequence, tokens) of each chunk, in order."""
    return [(chunk.seq.id, chunk.num_tokens) for chunk in batch]


def is_right(seq: Sequence) -> bool:
    """Finished, whole, and what it would have said alone."""
    expected = alone(seq.token_ids[: seq.num_prompt_tokens].tolist(), seq.max_tokens, NEXT)
    return seq.is_finished and seq.token_ids.tolist() == expected


def test_a_newcomer_continues_a_conversation_that_ended():
    simulation = Simulation(num_cells=80)
    first = simulation.add([1, 2, 3], max_tokens=4)
    simulation.run()

    second = simulation.add([*first.token_ids.tolist(), 5, 5], max_tokens=4)
    simulation.run()

    assert second.num_cached_tokens == len(first.tokens) - 1  # the last one was picked and never computed
    assert is_right(second)


def test_a_newcomer_shares_the_prefix_of_one_who_runs():
    simulation = Simulation(num_cells=80)
    system = LETTERS * 3
    simulation.add([*system, 1], max_tokens=20)
    simulation.step()

    second = simulation.add([*system, 2], max_tokens=5)
    batch = simulation.step()

    assert second.num_cached_tokens == len(system)
    assert chunks(batch) == [(0, 1), (1, 1)]
    simulation.run()
    assert is_right(second)


def test_a_prefix_is_shared_only_as_far_as_it_was_computed():
    simulation = Simulation(num_cells=80, batch_tokens=8, prefill_tokens=8)
    donor = simulation.add([1] * 12)
    simulation.step()

    second = simulation.add([1] * 12)  # the rest of the donor's prompt is in the same batch: not there yet
    simulation.step()

    assert donor.num_computed == 12
    assert second.num_cached_tokens == 8
    simulation.run()
    assert is_right(second)


def test_a_newcomer_waits_for_a_prefix_that_is_being_computed_and_then_shares_it():
    simulation = Simulation(num_cells=200, prefill_tokens=16)
    system = [*LETTERS * 6, 0, 0, 0, 0, 0, 0]
    donor = simulation.add([*system, 1])
    second = simulation.add([*system, 2])

    simulation.step()
    assert (donor.num_computed, second.status) == (16, S.WAITING)

    simulation.run()
    assert second.num_cached_tokens == len(system)
    assert is_right(donor) and is_right(second)


def test_those_who_wait_for_a_prefix_keep_their_order():
    simulation = Simulation(num_cells=200, batch_tokens=64, prefill_tokens=48)
    system = LETTERS * 6
    donor = simulation.add([*system, 1])
    others = [simulation.add([*system, letter]) for letter in (2, 3, 4)]

    simulation.step()  # the donor's prompt leaves room for five tokens more

    assert simulation.scheduler.running == [donor]
    assert list(simulation.scheduler.waiting) == others


def test_those_behind_one_who_waits_for_a_prefix_go_on():
    simulation = Simulation(num_cells=200, batch_tokens=64, prefill_tokens=48)
    system = LETTERS * 6
    simulation.add([*system, *system])
    waits = simulation.add([*system, *system, 2])
    stranger = simulation.add([6, 5, 4])

    simulation.step()
    simulation.step()

    assert simulation.scheduler.running[-1] is stranger or stranger.is_finished
    simulation.run()
    assert waits.num_cached_tokens == 2 * len(system)


def test_nobody_waits_for_a_short_prefix():
    simulation = Simulation(num_cells=200, prefill_tokens=32)
    simulation.add([1] * 10)
    second = simulation.add([1] * 10)

    simulation.step()

    assert second.status is S.DECODE


def test_one_who_waits_for_a_prefix_is_not_lost_when_its_donor_leaves():
    simulation = Simulation(num_cells=200, prefill_tokens=8)
    system = LETTERS * 6
    donor = simulation.add([*system, 1])
    second = simulation.add([*system, 2])
    simulation.step()

    simulation.cancel(donor)
    simulation.run()

    assert second.num_cached_tokens == 8  # what the donor had computed
    assert is_right(second)


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_recurrent_model_reuses_whole_slots_only(num_slots):
    context = FakeContext(num_slots, 60, 32, next_token=NEXT, is_recurrent=True)
    simulation = Simulation(context=context)
    first = simulation.add([1, 2, 3], max_tokens=4)
    simulation.run()

    other = simulation.add([1, 2, 9 % VOCAB], max_tokens=4)
    simulation.run()
    goes_on = simulation.add([*other.token_ids.tolist(), 5], max_tokens=4)
    simulation.run()

    assert (other.num_cached_tokens, goes_on.num_cached_tokens) == (0, len(other.tokens) - 1)
    assert is_right(first) and is_right(other) and is_right(goes_on)


def test_nobody_waits_for_a_prefix_that_a_recurrent_model_could_not_share():
    context = FakeContext(2, 200, 32, next_token=NEXT, is_recurrent=True)
    simulation = Simulation(prefill_tokens=32, context=context)
    simulation.add([1] * 30)
    second = simulation.add([1] * 30)

    simulation.step()

    assert second.status is S.PREFILL


def run_without_computing(simulation: Simulation) -> None:
    """All that the scheduler and its cache do for a workload, and nothing else."""
    while simulation.scheduler.has_work:
        batch = simulation.scheduler.schedule()
        simulation.scheduler.commit(batch)
        for chunk in batch.with_rows():
            simulation.scheduler.advance(chunk.seq, 1)
            if chunk.seq.num_output_tokens == chunk.seq.max_tokens:
                simulation.scheduler.finish(chunk.seq, FinishReason.LENGTH)


class NoMemory:
    """Agrees to everything: only the scheduler's and the cache's own work is looked at."""

    num_cells, batch_tokens, max_rows, is_recurrent, slots = 40_000, 40_000, 3, False, ((), (), ())

    def copy(self, source: int, target: int, length: int) -> None: ...

    def truncate(self, slot: int, length: int) -> bool:
        return True


def test_a_prompt_of_5000_tokens_costs_no_python_for_each_of_them():
    costs = []
    for length in (50, 5_000):
        simulation = Simulation(prefill_tokens=40_000, context=NoMemory())  # type: ignore[arg-type]
        for last in (1, 2, 1):  # a new prompt, one that shares its beginning, and one that is there already
            simulation.add([3] * length + [last], max_tokens=3)
        costs.append(count_instructions(lambda simulation=simulation: run_without_computing(simulation)))

    assert costs[0] > 500
    assert costs[1] < costs[0] + 300
