"""Random workloads: whoever joins, leaves, shares, is put out or refused, every output is the one computed alone.

`MYLLM_FUZZ_EXAMPLES=20000` looks longer, and at other workloads each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from engine.simulation import VOCAB, Simulation
from fakes import FakeContext, alone, hashed
from hypothesis import HealthCheck, event, given, settings, strategies as st

from myllm.engine.sequence import Sequence
from myllm.types import FinishReason

EXAMPLES = int(os.environ.get("MYLLM_FUZZ_EXAMPLES", "0"))
TOKENS = st.integers(0, VOCAB - 1)


@dataclass
class Arrival:
    """A request: its prompt, when it comes, and the step at which its client leaves, if it does.

    wants_prompt_rows: it wants the logits after every token of its prompt.
    """

    prompt: list[int]
    max_tokens: int
    at: int
    cancelled_at: int | None
    wants_prompt_rows: bool


@dataclass
class Workload:
    num_slots: int
    num_cells: int
    batch_tokens: int
    prefill_tokens: int
    max_rows: int
    is_recurrent: bool
    missing_cells: int  # that the cache counts on and llama.cpp does not have
    refusals: set[int]  # decodes that are refused whatever there is room for
    arrivals: list[Arrival] = field(default_factory=list)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    is_honest = draw(st.integers(0, 2)) > 0
    num_slots = draw(st.sampled_from([3, 1, 2, 4, 5]))
    workload = Workload(
        num_slots=num_slots,
        num_cells=draw(st.integers(8, 80)),
        batch_tokens=draw(st.integers(1, 24)),
        prefill_tokens=draw(st.integers(1, 24)),
        max_rows=num_slots + draw(st.integers(0, 6)),
        is_recurrent=draw(st.integers(0, 4)) == 0,
        missing_cells=0 if is_honest else draw(st.integers(0, 6)),
        refusals=set() if is_honest else draw(st.sets(st.integers(0, 40), max_size=8)),
    )
    systems = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=30), min_size=1, max_size=2))
    prompts: list[list[int]] = []
    for _ in range(draw(st.sampled_from([4, 1, 2, 6, 9, 12]))):
        start = draw(st.sampled_from([[], *systems, *prompts[-3:]]))  # nothing, a system prompt, or a conversation that goes on
        prompt = [*start, *draw(st.lists(TOKENS, min_size=1, max_size=10))]
        max_tokens = draw(st.sampled_from([1, 2, 5, 9, 14]))
        cancelled_at = draw(st.one_of(st.none(), st.none(), st.integers(0, 40)))
        wants_prompt_rows = draw(st.integers(0, 3)) == 0
        workload.arrivals.append(Arrival(prompt, max_tokens, draw(st.integers(0, 12)), cancelled_at, wants_prompt_rows))
        prompts.append(alone(prompt, max_tokens, hashed(VOCAB)))
    return workload


class Run:
    """A workload on a simulation, step by step."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.num_decodes = 0
        context = FakeContext(
            workload.num_slots,
            workload.num_cells,
            workload.batch_tokens,
            max_rows=workload.max_rows,
            next_token=hashed(VOCAB),
            is_recurrent=workload.is_recurrent,
            real_cells=workload.num_cells - workload.missing_cells,
            is_refused=self._is_refused,
        )
        self.simulation = Simulation(prefill_tokens=workload.prefill_tokens, context=context)
        self.sequences: dict[int, Sequence] = {}

    def run(self) -> None:
        step = 0
        while self.simulation.scheduler.has_work or len(self.sequences) < len(self.workload.arrivals):
            self._meet_clients(step)
            self.simulation.step()
            step += 1
            assert step < 3000, "a livelock"

    def _meet_clients(self, step: int) -> None:
        for number, arrival in enumerate(self.workload.arrivals):
            if arrival.at == step:
                self.sequences[number] = self.simulation.add(
                    arrival.prompt, arrival.max_tokens, wants_prompt_rows=arrival.wants_prompt_rows
                )
            seq = self.sequences.get(number)
            if seq is not None and not seq.is_finished and arrival.cancelled_at is not None and step >= arrival.cancelled_at:
                self.simulation.cancel(seq)

    def _is_refused(self) -> bool:
        self.num_decodes += 1
        return self.num_decodes - 1 in self.workload.refusals


@settings(
    max_examples=EXAMPLES or 400,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(workloads())
def test_every_output_is_the_one_computed_alone(workload: Workload):
    run = Run(workload)

    run.run()

    simulation = run.simulation
    for seq in simulation.sequences:
        expected = alone(seq.token_ids[: seq.num_prompt_tokens].tolist(), seq.max_tokens, hashed(VOCAB))
        assert seq.is_finished
        assert seq.token_ids.tolist() == expected[: len(seq.tokens)]
        is_cached = seq.num_cached_tokens is not None and seq.num_cached_tokens > 0
        assert not (is_cached and seq in simulation.with_prompt_rows), "its first rows came from nowhere"
        is_whole = seq.num_output_tokens == seq.max_tokens
        assert is_whole or seq.finish_reason is FinishReason.CANCELLED or seq in simulation.outgrown
    real_cells = workload.num_cells - workload.missing_cells
    if not workload.refusals:
        assert all(len(seq.tokens) > real_cells for seq in simulation.outgrown), "ended although it would have fitted alone"
    if not workload.refusals and not workload.missing_cells:
        assert simulation.context.num_refused == 0, "the cache promised cells that were not there"
    assert not any(slot.is_busy for slot in simulation.cache.slots)
    event(f"preempted: {bool(simulation.preempted)}, outgrown: {bool(simulation.outgrown)}, refused: {simulation.context.num_refused > 0}")
    event(
        f"prompt rows: {bool(simulation.with_prompt_rows)}, of one put out: {bool(simulation.with_prompt_rows & set(simulation.preempted))}"
    )
    event(f"shared while running: {bool(simulation.context.copies)}, reused: {any(seq.num_cached_tokens for seq in simulation.sequences)}")
