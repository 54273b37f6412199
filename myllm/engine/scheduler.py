"""Who runs next. Decode first (one token each), then prefill chunks by arrival, then newcomers, up to `batch_tokens`.

The scheduler never sees llama.cpp, a clock or a text: it turns sequences into a Batch, and the engine tells it what came
of that. Its promises, fuzzed in tests/engine/test_scheduler.py over random workloads:

- every output equals the one computed alone, whoever else runs, joins, leaves or is preempted;
- a running stream gets a token every step; prompts share what `prefill_tokens` leaves;
- a batch asks for `max_rows` rows of logits at most, and a prompt that wants them all leaves one for each of the others;
- when cells run out the youngest gives its slot back and resumes later; only a sequence that is alone and still finds no
  room ends, with `length`. Nobody else ever fails because the cache is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from myllm.engine.kv_cache import KVCache
from myllm.engine.sequence import Batch, Chunk, Sequence, SequenceStatus as S
from myllm.engine.tokens import common_prefix
from myllm.types import FinishReason

# A newcomer waits for a prefix that somebody is computing right now if that saves it at least this many tokens.
WORTH_WAITING_TOKENS = 16


class Scheduler:
    """`prefill_tokens(is_streaming)` bounds the prompt tokens of one step; see prefill_budget.py.

    max_rows: rows of logits that one decode may be asked for, one for each slot at least.
    """

    def __init__(self, cache: KVCache, batch_tokens: int, prefill_tokens: Callable[[bool], int], max_rows: int) -> None:
        assert max_rows >= len(cache.slots), "every slot may want a row"
        self.cache = cache
        self.batch_tokens = batch_tokens
        self.max_rows = max_rows
        self.prefill_tokens = prefill_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0
        self._has_preempted = False
        self._blocked_epoch: int | None = None  # the cache's epoch when the head of the queue found no room
        self._outgrown: list[Sequence] = []

    def add(self, seq: Sequence) -> None:
        self.waiting.append(seq)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def schedule(self) -> Batch:
        """The next batch. Sequences that outgrew the cache on the way are in `take_outgrown()`."""
        batch = Batch()
        self._has_preempted = False  # a round that took room away lets nobody in, or two would evict each other for ever
        decoding = [seq for seq in self.running if seq.status is S.DECODE]
        for seq in decoding:
            if seq.status is S.DECODE:  # it may have been preempted for an older one
                self._add_chunk(batch, seq, self.batch_tokens)
        budget = min(self.prefill_tokens(bool(len(batch))), self.batch_tokens - batch.num_tokens)
        for seq in [seq for seq in self.running if seq.status is S.PREFILL]:
            if seq.status is S.PREFILL:
                budget -= self._add_chunk(batch, seq, budget)
        self._admit_newcomers(batch, budget)
        return batch

    def take_outgrown(self) -> list[Sequence]:
        """Sequences that schedule() ended because they were alone and found no room."""
        outgrown, self._outgrown = self._outgrown, []
        return outgrown

    def commit(self, batch: Batch) -> None:
        """The batch has been computed."""
        for chunk in batch:
            chunk.seq.commit(chunk.num_tokens)
            self.cache.commit(chunk.slot)
            if not chunk.seq.num_pending:
                chunk.seq.status = S.DECODE

    def roll_back(self, batch: Batch) -> None:
        """The batch was refused with the memory unchanged: un-account its tokens, then make room for the next try.

        Idle slots go first, then the youngest. Nobody is let in until somebody has ended: the cache would promise the
        same room again, and be refused again, for ever.
        """
        for chunk in batch:
            self.cache.roll_back(chunk.slot)
        if self.cache.clear():
            self._blocked_epoch = self.cache.epoch
        elif len(self.running) > 1:
            self.preempt(self.running[-1])
            self._blocked_epoch = self.cache.epoch
        else:
            self._outgrow(self.running[0])

    def advance(self, seq: Sequence, token_id: int) -> None:
        """A token was sampled after the sequence's last computed one."""
        seq.tokens.append(token_id)

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        """Only between steps: nothing of the sequence is in flight."""
        if seq.status is S.WAITING:
            self.waiting.remove(seq)
            self._blocked_epoch = None
        else:
            self._give_up_slot(seq)
        seq.status, seq.finish_reason = S.FINISHED, reason

    def preempt(self, seq: Sequence) -> None:
        """Back to the head of the queue; its tokens are kept, its cells only as long as nobody needs the room."""
        self._give_up_slot(seq)
        seq.status, seq.num_computed = S.WAITING, 0
        self._has_preempted = True
        self._blocked_epoch = None
        self.num_preemptions += 1
        self.waiting.appendleft(seq)

    def _admit_newcomers(self, batch: Batch, budget: int) -> None:
        if not self.waiting or self._has_preempted or self._blocked_epoch == self.cache.epoch:
            return
        held: list[Sequence] = []
        room = self.cache.num_idle_slots
        while self.waiting and budget > 0 and len(held) < room:
            seq = self.waiting.popleft()
            if self._is_worth_waiting(seq):
                held.append(seq)
            elif self._admit(seq):
                budget -= self._add_chunk(batch, seq, budget)
            else:
                self.waiting.appendleft(seq)
                self._blocked_epoch = self.cache.epoch if not held else None
                break
        self.waiting.extendleft(reversed(held))

    def _is_worth_waiting(self, seq: Sequence) -> bool:
        """Is somebody computing, just now, a prefix that this one could share a moment later?"""
        if not self.cache.can_cut:
            return False
        limit = seq.first_row
        for other in self.running:
            if other.status is S.PREFILL:
                coming = common_prefix(other.token_ids, seq.token_ids, limit)
                if coming - other.num_computed >= WORTH_WAITING_TOKENS:
                    return True
        return False

    def _admit(self, seq: Sequence) -> bool:
        """Let it in if its whole prompt fits; when nobody runs, always, so that it fails by its own size."""
        if self.running and not self.cache.fits(seq.token_ids, seq.first_row):
            return False
        allocation = self.cache.allocate(seq.token_ids, seq.first_row)
        if allocation is None:
            return False
        seq.slot, cached = allocation
        if seq.num_cached_tokens is None:
            seq.num_cached_tokens = cached
        seq.num_computed, seq.status = cached, S.PREFILL
        self.running.append(seq)
        return True

    def _add_chunk(self, batch: Batch, seq: Sequence, limit: int) -> int:
        """Put up to `limit` of the sequence's pending tokens into the batch; returns how many."""
        count = min(seq.num_pending, limit)
        if seq.wants_prompt_rows:
            count = min(count, seq.first_row + self._rows_for_one(batch) - seq.num_computed)
        if count <= 0:
            return 0
        assert seq.slot is not None
        tokens = seq.token_ids[seq.num_computed : seq.num_computed + count]
        while not self.cache.extend(seq.slot, tokens):
            if not self._make_room(batch, seq):
                return 0
        end = seq.num_computed + count
        batch.add(Chunk(seq, seq.slot, seq.num_computed, count, max(end - seq.first_row, 0)))
        return count

    def _rows_for_one(self, batch: Batch) -> int:
        """Rows that one more sequence may ask for, so that one is left for each that could follow; 1 at least."""
        others = min(len(self.running) + len(self.waiting), len(self.cache.slots)) - len(batch) - 1
        return self.max_rows - batch.num_rows - others

    def _make_room(self, batch: Batch, seq: Sequence) -> bool:
        """Preempt the youngest that is younger than `seq` and not in this batch; True if `seq` may try again."""
        scheduled = {chunk.seq for chunk in batch}
        younger = self.running[self.running.index(seq) + 1 :]
        victims = [other for other in younger if other not in scheduled]
        if victims:
            self.preempt(victims[-1])
            return True
        if len(self.running) > 1:
            self.preempt(seq)
        else:
            self._outgrow(seq)
        return False

    def _outgrow(self, seq: Sequence) -> None:
        self.finish(seq, FinishReason.LENGTH)
        self._outgrown.append(seq)

    def _give_up_slot(self, seq: Sequence) -> None:
        assert seq.slot is not None
        self.running.remove(seq)
        self.cache.release(seq.slot)
        seq.slot = None
