"""Which tokens sit in which slot, and how many cells of the KV cache that takes.

A slot is one of llama.cpp's sequence ids; a cell holds the keys and values of one token and may belong to several slots
at once (a shared prefix). This is bookkeeping over a `Memory`: the real one cuts and copies inside llama.cpp, the tests
use a fake. llama.cpp accepts a sequence that starts at position 5 without a word, so that positions are contiguous and
that a prefix is only shared as far as it was computed is asserted here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from myllm.engine.tokens import Int32Array, TokenBuffer, common_prefix


class Memory(Protocol):
    """What the cache asks of llama.cpp; both calls change metadata only."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Let the empty slot `target` share the first `length` cells of `source`."""

    def truncate(self, slot: int, length: int) -> bool:
        """Cut `slot` to `length` tokens; False (unchanged) where the memory cannot cut in the middle."""


@dataclass(slots=True)
class Slot:
    """token_ids beyond `num_computed` are scheduled but not evaluated yet: nobody may copy them."""

    index: int
    tokens: TokenBuffer = field(default_factory=TokenBuffer)
    cells: TokenBuffer = field(default_factory=TokenBuffer)
    num_computed: int = 0
    is_busy: bool = False
    last_used: int = 0


class KVCache:
    """Slots over `num_cells` cells. `can_cut` False (recurrent models) restricts reuse to whole slots."""

    def __init__(self, num_slots: int, num_cells: int, memory: Memory, *, can_cut: bool = True) -> None:
        self.slots = [Slot(i) for i in range(num_slots)]
        self.num_cells = num_cells
        self.memory = memory
        self.can_cut = can_cut
        self.epoch = 0  # grows whenever room may have appeared, so that a blocked queue knows when to look again
        self._free: Int32Array = np.arange(num_cells, dtype=np.int32)
        self._num_free = num_cells
        self._holders: Int32Array = np.zeros(num_cells, dtype=np.int32)  # slots that hold each cell
        self._busy_holders: Int32Array = np.zeros(num_cells, dtype=np.int32)  # of these, busy ones
        self._num_busy_cells = 0
        self._clock = 0

    @property
    def num_available(self) -> int:
        """Cells that are free or held only by idle slots."""
        return self.num_cells - self._num_busy_cells

    @property
    def num_used(self) -> int:
        return self.num_cells - self._num_free

    @property
    def num_idle_slots(self) -> int:
        return sum(not slot.is_busy for slot in self.slots)

    def fits(self, token_ids: Int32Array, limit: int | None = None) -> bool:
        """Would all of `token_ids` find room beside the busy slots, counting those of their cells that it would share?"""
        if len(token_ids) <= self.num_available:
            return True
        source, length = self._longest_prefix(token_ids, limit)
        shared = np.count_nonzero(self._busy_holders[source.cells.view[:length]])
        return len(token_ids) - int(shared) <= self.num_available

    def allocate(self, token_ids: Int32Array, limit: int | None = None) -> tuple[int, int] | None:
        """Take an idle slot for `token_ids`; returns (slot, num_cached_tokens), or None when no slot is idle.

        limit: how many leading tokens may come from the cache. Logits come only from a decode, so the first token whose
        logits are wanted has to be evaluated; where nothing is said that is the last one.
        The longest computed prefix wins: its slot is continued in place where nothing would be lost by that,
        otherwise its cells are shared with another slot, also while its owner runs.
        """
        idle = [slot for slot in self.slots if not slot.is_busy]
        if not idle:
            return None
        best, length = self._longest_prefix(token_ids, limit)
        if not best.is_busy and length == len(best.tokens):
            target = best
        else:
            target = min(idle, key=lambda s: (len(s.tokens) > 0, s.last_used))
        if target is best:
            length = self._truncate(target, length)
        else:
            self._truncate(target, 0)
            self._share(best, target, length)
        self._set_busy(target, True)
        return target.index, length

    def extend(self, slot: int, token_ids: Int32Array) -> bool:
        """Account cells for tokens about to be computed; evicts idle slots, least recent first. False: no room."""
        count = len(token_ids)
        while self._num_free < count:
            idle = [s for s in self.slots if not s.is_busy and len(s.tokens)]
            if not idle:
                return False
            self._truncate(min(idle, key=lambda s: s.last_used), 0)
        target = self.slots[slot]
        cells = self._free[self._num_free - count : self._num_free]
        self._num_free -= count
        self._holders[cells] = 1
        self._busy_holders[cells] = 1
        self._num_busy_cells += count
        target.cells.extend(cells)
        target.tokens.extend(token_ids)
        return True

    def commit(self, slot: int) -> None:
        """The scheduled tokens of this slot have been evaluated."""
        self.slots[slot].num_computed = len(self.slots[slot].tokens)

    def roll_back(self, slot: int) -> None:
        """The scheduled tokens of this slot were not evaluated: give their cells back. llama.cpp never saw them."""
        self._drop_cells(self.slots[slot], self.slots[slot].num_computed)

    def release(self, slot: int) -> None:
        """Make the slot idle; what was computed stays for reuse until its room is needed."""
        self._clock += 1
        self.epoch += 1
        target = self.slots[slot]
        assert target.num_computed == len(target.tokens), "released with tokens in flight"
        target.last_used = self._clock
        self._set_busy(target, False)

    def clear(self) -> bool:
        """Forget what the idle slots remember (llama.cpp has less room than we thought, or it is in doubt). False: nothing."""
        idle = [slot for slot in self.slots if not slot.is_busy and len(slot.tokens)]
        for slot in idle:
            self._truncate(slot, 0)
        return bool(idle)

    def check_integrity(self) -> None:
        """Recount everything from the slots; for tests, after every step."""
        holders, busy = np.zeros_like(self._holders), np.zeros_like(self._busy_holders)
        for slot in self.slots:
            assert len(slot.cells) == len(slot.tokens)
            assert slot.num_computed <= len(slot.tokens)
            holders[slot.cells.view] += 1
            busy[slot.cells.view] += slot.is_busy
        assert (holders == self._holders).all() and (busy == self._busy_holders).all()
        assert sorted(self._free[: self._num_free]) == [i for i, n in enumerate(holders) if n == 0]
        assert self._num_busy_cells == int((busy > 0).sum())

    def _longest_prefix(self, token_ids: Int32Array, limit: int | None) -> tuple[Slot, int]:
        limit = len(token_ids) - 1 if limit is None else limit
        prefix = [self._reusable(slot, token_ids, limit) for slot in self.slots]
        best = max(self.slots, key=lambda s: (prefix[s.index], not s.is_busy, s.last_used))
        return best, prefix[best.index]

    def _reusable(self, slot: Slot, token_ids: Int32Array, limit: int) -> int:
        """Leading tokens of `token_ids` that this slot can spare: computed ones, `limit` of them at most."""
        length = common_prefix(slot.tokens.view, token_ids, min(limit, slot.num_computed))
        if self.can_cut:
            return length
        return length if length == len(slot.tokens) and not slot.is_busy else 0

    def _share(self, source: Slot, target: Slot, length: int) -> None:
        if length == 0:
            return
        assert length <= source.num_computed
        self.memory.copy(source.index, target.index, length)
        target.tokens.extend(source.tokens.view[:length])
        target.cells.extend(source.cells.view[:length])
        target.num_computed = length
        self._holders[target.cells.view] += 1

    def _truncate(self, slot: Slot, length: int) -> int:
        """Cut the slot to `length` tokens and return what is left: 0 if the memory refuses a partial cut."""
        if length == len(slot.tokens):
            return length
        if not self.memory.truncate(slot.index, length):
            length = 0
            self.memory.truncate(slot.index, 0)
        self._drop_cells(slot, length)
        slot.num_computed = length
        return length

    def _drop_cells(self, slot: Slot, length: int) -> None:
        cells = slot.cells.truncate(length)
        slot.tokens.truncate(length)
        self._holders[cells] -= 1
        if slot.is_busy:
            self._busy_holders[cells] -= 1
            self._num_busy_cells -= int((self._busy_holders[cells] == 0).sum())
        freed = cells[self._holders[cells] == 0]
        self._free[self._num_free : self._num_free + len(freed)] = freed
        self._num_free += len(freed)

    def _set_busy(self, slot: Slot, is_busy: bool) -> None:
        assert slot.is_busy != is_busy
        slot.is_busy = is_busy
        cells = slot.cells.view
        if is_busy:
            self._num_busy_cells += int((self._busy_holders[cells] == 0).sum())
            self._busy_holders[cells] += 1
        else:
            self._busy_holders[cells] -= 1
            self._num_busy_cells -= int((self._busy_holders[cells] == 0).sum())
