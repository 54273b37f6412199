from __future__ import annotations

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


def test_nothing_to_do_is_an_empty_batch():
    simulation = Simulation()

    assert not simulation.scheduler.has_work
    assert not simulation.step()


def test_decode_tokens_go_before_prefill_chunks():
    simulation = Simulation(num_cells=200, batch_tokens=16, prefill_tokens=8)
    simulation.add([1] * 4, max_tokens=20)
    simulation.step()
    simulation.add([2] * 30)

    assert chunks(simulation.step()) == [(0, 1), (1, 8)]
    assert chunks(simulation.step()) == [(0, 1), (1, 8)]


def test_a_running_stream_gets_a_token_in_every_step_of_a_long_prompt():
    simulation = Simulation(num_cells=200, prefill_tokens=8)
    stream = simulation.add([1, 2], max_tokens=50)
    simulation.step()
    simulation.add([3] * 100)

    for expected in range(2, 15):
        simulation.step()

        assert stream.num_output_tokens == expected


def test_prompts_are_computed_by_arrival():
    simulation = Simulation(num_cells=200, batch_tokens=16, prefill_tokens=16)
    simulation.add([1] * 20)
    simulation.add([2] * 20)

    assert chunks(simulation.step()) == [(0, 16)]
    assert chunks(simulation.step()) == [(0, 4), (1, 12)]


def test_the_prompts_of_one_step_are_bounded():
    simulation = Simulation(num_cells=200, batch_tokens=64, prefill_tokens=10)
    simulation.add([1] * 6)
    simulation.add([2] * 6)

    assert chunks(simulation.step()) == [(0, 6), (1, 4)]


def test_no_more_run_than_there_are_slots():
    simulation = Simulation(num_slots=2, num_cells=200)
    sequences = [simulation.add([letter] * 3, max_tokens=5) for letter in range(5)]

    simulation.step()

    assert [seq.id for seq in simulation.scheduler.running] == [0, 1]
    simulation.run()
    assert all(is_right(seq) for seq in sequences)


def test_no_more_run_than_a_batch_has_tokens():
    """A batch of two tokens and four slots: four streams would have needed a batch of four."""
    simulation = Simulation(num_slots=4, num_cells=200, batch_tokens=2)
    sequences = [simulation.add([letter], max_tokens=5) for letter in range(5)]

    simulation.step()
    simulation.step()

    assert len(simulation.scheduler.running) == 2
    simulation.run()
    assert all(is_right(seq) for seq in sequences)


def test_a_newcomer_enters_only_if_its_whole_prompt_fits():
    simulation = Simulation(num_cells=20)
    simulation.add([1] * 8, max_tokens=4)
    simulation.step()
    newcomer = simulation.add([2] * 13)

    simulation.step()

    assert newcomer.status is S.WAITING
    simulation.run()
    assert is_right(newcomer)


def test_a_newcomer_that_fits_exactly_enters():
    simulation = Simulation(num_cells=20)
    simulation.add([1] * 7, max_tokens=4)
    simulation.step()
    newcomer = simulation.add([2] * 12)

    simulation.step()

    assert newcomer.status is S.DECODE


def test_nobody_overtakes_one_who_waits_for_room():
    simulation = Simulation(num_cells=20)
    simulation.add([1] * 8, max_tokens=6)
    simulation.step()
    simulation.add([2] * 15)
    small = simulation.add([3])

    simulation.step()

    assert small.status is S.WAITING


def test_a_blocked_queue_is_looked_at_again_when_its_head_leaves():
    simulation = Simulation(num_cells=20)
    simulation.add([1] * 8, max_tokens=6)
    simulation.step()
    big = simulation.add([2] * 15)
    small = simulation.add([3])
    simulation.step()

    simulation.cancel(big)
    simulation.step()

    assert small.status is S.DECODE


def test_a_blocked_queue_costs_nothing_until_room_may_have_appeared():
    simulation = Simulation(num_cells=20)
    simulation.add([1] * 8, max_tokens=6)
    simulation.step()
    simulation.add([2] * 15)
    asked = []
    fits = simulation.cache.fits
    simulation.cache.fits = lambda token_ids, limit: asked.append(len(token_ids)) or fits(token_ids, limit)  # type: ignore[method-assign]

    for _ in range(4):
        simulation.step()

    assert asked == [15]


def test_only_younger_sequences_are_preempted():
    simulation = Simulation(num_slots=3, num_cells=24)
    oldest = simulation.add([1] * 5, max_tokens=12)
    middle = simulation.add([2] * 5, max_tokens=12)
    youngest = simulation.add([3] * 5, max_tokens=12)

    while not simulation.preempted:
        simulation.step()

    assert simulation.preempted == [youngest]
    assert (oldest.status, middle.status) == (S.DECODE, S.DECODE)


def test_the_oldest_is_never_preempted():
    simulation = Simulation(num_slots=4, num_cells=30)
    oldest = simulation.add([1] * 5, max_tokens=20)
    others = [simulation.add([letter] * 5, max_tokens=20) for letter in (2, 3, 4)]

    simulation.run()

    assert len(simulation.preempted) >= 3
    assert oldest not in simulation.preempted
    assert all(is_right(seq) for seq in [oldest, *others])


def test_a_preempted_sequence_resumes_where_it_was():
    simulation = Simulation(num_slots=2, num_cells=16)
    simulation.add([1] * 5, max_tokens=8)
    victim = simulation.add([2] * 5, max_tokens=8)

    while victim not in simulation.preempted:
        simulation.step()
    said = victim.token_ids.tolist()
    simulation.run()

    assert victim.token_ids[: len(said)].tolist() == said
    assert is_right(victim)
    assert simulation.scheduler.num_preemptions == len(simulation.preempted)


def test_a_preempted_sequence_stands_before_those_who_never_ran():
    simulation = Simulation(num_slots=2, num_cells=16)
    simulation.add([1] * 5, max_tokens=8)
    victim = simulation.add([2] * 5, max_tokens=8)
    newcomer = simulation.add([3])

    while not simulation.preempted:
        simulation.step()

    assert list(simulation.scheduler.waiting) == [victim, newcomer]


def test_a_round_that_preempted_lets_nobody_in():
    """Two that do not fit together would put each other out for ever. `newcomer` would fit where the victim was."""
    simulation = Simulation(num_slots=3, num_cells=16)
    simulation.add([1] * 5, max_tokens=8)
    victim = simulation.add([2] * 5, max_tokens=8)

    while not simulation.preempted:
        newcomer = simulation.add([3])
        simulation.cancel(newcomer)
        newcomer = simulation.add([3])
        batch = simulation.step()
        if not simulation.preempted:
            simulation.cancel(newcomer)

    assert chunks(batch) == [(0, 1)]
    assert (victim.status, newcomer.status) == (S.WAITING, S.WAITING)


def test_what_was_cached_counts_the_first_admission_only():
    """Put out, it comes back to a prefix that the other has computed by now; the client's usage is of its first start."""
    simulation = Simulation(num_slots=2, num_cells=16)
    simulation.add([1, 1, 1, 1, 5], max_tokens=8)
    victim = simulation.add([1, 1, 1, 1, 6], max_tokens=8)

    simulation.run()

    assert victim in simulation.preempted
    assert victim.is_finished and max(length for _, _, length in simulation.context.copies) >= 4
    assert victim.num_cached_tokens == 0


def test_a_sequence_that_is_alone_and_finds_no_room_ends_with_length():
    simulation = Simulation(num_cells=10)
    seq = simulation.add([1] * 4, max_tokens=50)

    simulation.run()

    assert simulation.outgrown == [seq]
    assert seq.finish_reason is FinishReason.LENGTH
    assert len(seq.tokens) == 11  # the last was picked from the tenth cell and had none of its own


def test_a_prompt_larger_than_the_cache_ends_and_hurts_nobody():
    simulation = Simulation(num_cells=20)
    before = simulation.add([1] * 4, max_tokens=6)
    giant = simulation.add([2] * 40)
    after = simulation.add([3] * 4, max_tokens=6)

    simulation.run()

    assert simulation.outgrown == [giant]
    assert giant.num_output_tokens == 0
    assert is_right(before) and is_right(after)


def test_a_sequence_that_outgrew_is_told_once():
    simulation = Simulation(num_cells=10)
    simulation.add([1] * 12)
    simulation.scheduler.schedule()

    assert len(simulation.scheduler.take_outgrown()) == 1
    assert simulation.scheduler.take_outgrown() == []


def test_a_cancelled_sequence_frees_its_slot_before_the_next_step():
    simulation = Simulation(num_slots=1, num_cells=40)
    first = simulation.add([1] * 4, max_tokens=20)
    second = simulation.add([2] * 4)
    simulation.step()

    simulation.cancel(first)
    simulation.step()

    assert first.finish_reason is FinishReason.CANCELLED
    assert second.slot == 0


def test_a_sequence_can_be_cancelled_in_the_middle_of_its_prompt():
    simulation = Simulation(num_cells=80, prefill_tokens=8)
    seq = simulation.add([1] * 30)
    simulation.step()

    simulation.cancel(seq)

    assert not simulation.scheduler.has_work
    assert simulation.cache.num_available == 80
    assert simulation.context.tokens(0) == [1] * 8  # kept for whoever asks the same


def test_a_sequence_can_be_cancelled_while_it_waits():
    simulation = Simulation(num_slots=1, num_cells=40)
    first = simulation.add([1] * 4)
    second = simulation.add([2] * 4)
    simulation.step()

    simulation.cancel(second)
    simulation.run()

    assert second.finish_reason is FinishReason.CANCELLED
    assert is_right(first)


def test_a_refused_batch_leaves_no_trace():
    refusals = iter([False, True] + [False] * 100)
    simulation = Simulation(context=FakeContext(2, 40, 32, next_token=NEXT, is_refused=lambda: next(refusals)))
    first = simulation.add([1] * 4)
    second = simulation.add([2] * 4)
    simulation.step()
    before = [simulation.context.tokens(0), simulation.context.tokens(1)]

    simulation.step()

    assert [simulation.context.tokens(0), simulation.context.tokens(1)] == before
    assert simulation.preempted == [second]
    simulation.run()
    assert is_right(first) and is_right(second)


def test_a_refused_batch_costs_the_idle_slots_first():
    refusals = iter([False] * 4 + [True] + [False] * 100)
    simulation = Simulation(context=FakeContext(3, 80, 32, next_token=NEXT, is_refused=lambda: next(refusals)))
    simulation.add([1] * 4, max_tokens=4)
    simulation.run()
    seq = simulation.add([2] * 4)

    simulation.step()

    assert simulation.context.num_refused == 1
    assert simulation.context.num_used == 0
    simulation.run()
    assert is_right(seq)
    assert simulation.preempted == []


def test_a_memory_smaller_than_it_claims_serves_everybody_all_the_same():
    """The youngest was let in again at once after each refusal, refused again, and so on for ever."""
    simulation = Simulation(context=FakeContext(3, 40, 32, next_token=NEXT, real_cells=20))
    sequences = [simulation.add([letter] * 8, max_tokens=10) for letter in range(4)]

    simulation.run()

    assert simulation.context.num_refused > 0
    assert all(is_right(seq) for seq in sequences)


def test_a_sequence_that_is_alone_and_refused_for_ever_ends_with_length():
    simulation = Simulation(context=FakeContext(3, 40, 32, next_token=NEXT, is_refused=lambda: True))
    sequences = [simulation.add([letter] * 8) for letter in range(3)]

    simulation.run(within=30)

    assert sorted(seq.id for seq in simulation.outgrown) == [seq.id for seq in sequences]


def test_a_prompt_that_was_let_in_by_cells_it_cannot_use_does_not_hang_the_scheduler():
    """Two computed the same beginning apart, one is idle: the newcomer continues it, so the cells of the other do not help."""
    simulation = Simulation(num_slots=3, num_cells=24)
    simulation.add([1, 1, 1, 1, 5], max_tokens=5)
    idle = simulation.add([1, 1, 1, 1, 6], max_tokens=1)
    simulation.step()
    newcomer = simulation.add([*idle.token_ids[:5].tolist(), *[3] * 14], max_tokens=1)

    simulation.run()

    assert is_right(newcomer)
    assert simulation.preempted == []
