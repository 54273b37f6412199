"""The scheduler with its cache on a fake context, stepped as the engine steps it; every promise that holds for each
single step is asserted here, so that no test can break one unseen."""

from __future__ import annotations

from fakes import FakeContext, NextToken, hashed

from myllm.engine.kv_cache import KVCache
from myllm.engine.llama import KVCacheFull
from myllm.engine.scheduler import Scheduler
from myllm.engine.sequence import Batch, Sequence, SequenceStatus as S
from myllm.types import FinishReason

VOCAB = 7


class Simulation:
    """`outgrown` and `preempted` collect sequences in the order it happened to them; `batches` what was scheduled."""

    def __init__(
        self,
        num_slots: int = 4,
        num_cells: int = 80,
        *,
        batch_tokens: int = 32,
        prefill_tokens: int = 32,
        max_rows: int | None = None,
        context: FakeContext | None = None,
        next_token: NextToken | None = None,
    ) -> None:
        self.context = context or FakeContext(num_slots, num_cells, batch_tokens, max_rows=max_rows, next_token=next_token or hashed(VOCAB))
        self.cache = KVCache(len(self.context.slots), self.context.num_cells, self.context, can_cut=not self.context.is_recurrent)
        self.prefill_tokens = prefill_tokens
        self.scheduler = Scheduler(self.cache, self.context.batch_tokens, lambda is_streaming: self.prefill_tokens, self.context.max_rows)
        self.sequences: list[Sequence] = []
        self.rows: dict[Sequence, list[int]] = {}  # positions whose logits a sequence wants, in the order in which it got them
        self.with_prompt_rows: set[Sequence] = set()
        self.outgrown: list[Sequence] = []
        self.preempted: list[Sequence] = []
        self.batches: list[Batch] = []
        self._preempt = self.scheduler.preempt
        self.scheduler.preempt = self._watched_preempt  # type: ignore[method-assign]

    def add(self, token_ids: list[int], max_tokens: int = 4, *, wants_prompt_rows: bool = False) -> Sequence:
        seq = Sequence(len(self.sequences), token_ids, max_tokens, wants_prompt_rows=wants_prompt_rows)
        self.sequences.append(seq)
        self.rows[seq] = []
        if wants_prompt_rows:
            self.with_prompt_rows.add(seq)
        self.scheduler.add(seq)
        return seq

    def cancel(self, seq: Sequence) -> None:
        self.scheduler.finish(seq, FinishReason.CANCELLED)
        self.check()

    def step(self) -> Batch:
        """One tick, as Engine.step does it."""
        before = list(self.scheduler.running)
        num_preempted = len(self.preempted)
        batch = self.scheduler.schedule()
        self.batches.append(batch)
        self._check_batch(batch, before, self.preempted[num_preempted:])
        self._take_outgrown()
        if not batch:
            return batch
        try:
            self.context.decode(batch)
        except KVCacheFull:
            self.scheduler.roll_back(batch)
            self._take_outgrown()
        else:
            chunks = batch.with_rows()
            self.scheduler.commit(batch)
            for chunk in chunks:
                end = chunk.start_pos + chunk.num_tokens
                self.rows[chunk.seq] += range(end - chunk.num_rows, end)
            self._sample([chunk.seq for chunk in chunks if not chunk.seq.num_pending])
        self.check()
        return batch

    def run(self, *, within: int = 1000) -> None:
        """Until nobody is left. More steps than `within` are a livelock."""
        for _ in range(within):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError(f"still {len(self.scheduler.running)} running and {len(self.scheduler.waiting)} waiting: a livelock")

    def check(self) -> None:
        """What holds between any two steps."""
        self.cache.check_integrity()
        assert [slot.tokens.view.tolist() for slot in self.cache.slots] == [self.context.tokens(slot.index) for slot in self.cache.slots]
        assert self.cache.num_used == self.context.num_used
        running = self.scheduler.running
        assert sorted(seq.slot for seq in running) == [slot.index for slot in self.cache.slots if slot.is_busy]
        assert all(self.cache.slots[seq.slot].tokens.view.tolist() == seq.token_ids[: seq.num_computed].tolist() for seq in running)
        assert all(seq.slot is None and seq.num_computed == 0 for seq in self.scheduler.waiting)
        for seq, rows in self.rows.items():
            first = 0 if seq in self.with_prompt_rows else seq.num_prompt_tokens - 1
            assert rows == list(range(first, first + len(rows))), "a row was lost, or came twice"

    def _sample(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            self.scheduler.advance(seq, self.context.next_token(seq.token_ids.tolist()))
            if seq.num_output_tokens >= seq.max_tokens:
                self.scheduler.finish(seq, FinishReason.LENGTH)

    def _check_batch(self, batch: Batch, before: list[Sequence], preempted: list[Sequence]) -> None:
        decoding = [chunk.seq.status is S.DECODE for chunk in batch]
        assert decoding == sorted(decoding, reverse=True), "a prefill chunk stands before a decode"
        assert all(chunk.num_tokens == 1 for chunk in batch if chunk.seq.status is S.DECODE)
        assert batch.num_tokens <= self.context.batch_tokens
        assert batch.num_rows <= self.context.max_rows
        assert sum(chunk.num_tokens for chunk in batch if chunk.seq.status is S.PREFILL) <= self.prefill_tokens
        assert len(self.scheduler.running) <= len(self.cache.slots)
        in_batch = {chunk.seq for chunk in batch}
        assert all(seq in in_batch for seq in self.scheduler.running if seq.status is S.DECODE), "a running stream got no token"
        assert not preempted or set(self.scheduler.running) <= set(before), "somebody came in while another was put out"

    def _take_outgrown(self) -> None:
        for seq in self.scheduler.take_outgrown():
            assert seq.finish_reason is FinishReason.LENGTH
            self.outgrown.append(seq)

    def _watched_preempt(self, seq: Sequence) -> None:
        assert len(self.scheduler.running) > 1, "preempted although it is alone"
        self.preempted.append(seq)
        self._preempt(seq)
