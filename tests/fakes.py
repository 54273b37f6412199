"""What the tests put in llama.cpp's place: a memory of plain lists, a context that computes on it, a vocabulary of letters.

The fakes observe the forbidden. llama.cpp would take positions with a gap, a copy onto a slot in use or the decode of a
sequence that nobody accounted for, and answer nonsense later; here each of them is a failed assertion at once. The next
token depends on every token in the slot, so that one wrong cell anywhere shows in the text.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from myllm.engine.llama import KVCacheFull
from myllm.engine.sequence import Batch
from myllm.engine.tokens import Int32Array

NextToken = Callable[[list[int]], int]


def hashed(vocab_size: int) -> NextToken:
    """A next token that any change of any token before it changes."""
    return lambda token_ids: zlib.crc32(np.array(token_ids, np.int32).tobytes()) % vocab_size


def alone(prompt: Iterable[int], max_tokens: int, next_token: NextToken) -> list[int]:
    """Prompt and answer of a sequence that has the machine to itself."""
    token_ids = list(prompt)
    for _ in range(max_tokens):
        token_ids.append(next_token(token_ids))
    return token_ids


class Cell:
    """One token's keys and values; it may stand in several slots. Compared by identity."""

    __slots__ = ("token_id",)

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id


class FakeMemory:
    """kv_cache.Memory as one list of cells a slot. `is_recurrent` refuses to cut in the middle, and to be copied at all."""

    def __init__(self, num_slots: int, *, is_recurrent: bool = False) -> None:
        self.slots: list[list[Cell]] = [[] for _ in range(num_slots)]
        self.is_recurrent = is_recurrent
        self.copies: list[tuple[int, int, int]] = []

    @property
    def num_used(self) -> int:
        return len({id(cell) for slot in self.slots for cell in slot})

    def tokens(self, slot: int) -> list[int]:
        return [cell.token_id for cell in self.slots[slot]]

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.is_recurrent, "a recurrent state holds all its tokens: a part of it cannot be copied"
        assert source != target and not self.slots[target], "copied onto a slot in use"
        assert 0 < length <= len(self.slots[source]), "copied what was never computed"
        self.slots[target] = self.slots[source][:length]
        self.copies.append((source, target, length))

    def truncate(self, slot: int, length: int) -> bool:
        assert 0 <= length <= len(self.slots[slot])
        if self.is_recurrent and 0 < length < len(self.slots[slot]):
            return False
        del self.slots[slot][length:]
        return True


class FakeContext(FakeMemory):
    """engine.Context on a FakeMemory. A row's best logit is `next_token` of the tokens in its slot up to that row.

    max_rows: what a batch may ask for; llama.cpp aborts the process on more.
    real_cells: what there really is, where that is less than the `num_cells` claimed.
    is_refused: asked before each decode; True makes it raise KVCacheFull with the memory unchanged.
    corrupt: may change the row of the tokens it is given.
    """

    def __init__(
        self,
        num_slots: int = 4,
        num_cells: int = 256,
        batch_tokens: int = 64,
        *,
        max_rows: int | None = None,
        vocab_size: int = 64,
        next_token: NextToken | None = None,
        is_recurrent: bool = False,
        real_cells: int | None = None,
        is_refused: Callable[[], bool] = lambda: False,
        corrupt: Callable[[list[int], npt.NDArray[np.float32]], None] | None = None,
    ) -> None:
        super().__init__(num_slots, is_recurrent=is_recurrent)
        self.num_cells = num_cells
        self.batch_tokens = batch_tokens
        self.max_rows = num_slots if max_rows is None else max_rows
        self.vocab_size = vocab_size
        self.next_token = next_token or hashed(vocab_size)
        self.real_cells = num_cells if real_cells is None else real_cells
        self.is_refused = is_refused
        self.corrupt = corrupt
        self.num_refused = 0
        self.threads: list[int] = []  # every number that was set
        self.batch_sizes: list[int] = []
        self._rows: list[npt.NDArray[np.float32]] = []

    def decode(self, batch: Batch) -> None:
        assert 0 < batch.num_tokens <= self.batch_tokens, f"{batch.num_tokens} tokens in a batch for {self.batch_tokens}"
        assert batch.num_tokens == sum(chunk.num_tokens for chunk in batch)
        assert batch.num_rows == sum(chunk.num_rows for chunk in batch) <= self.max_rows, "more rows than llama.cpp has room for"
        assert len({chunk.slot for chunk in batch}) == len(batch), "two chunks in one slot"
        if self.is_refused() or self.num_used + batch.num_tokens > self.real_cells:
            self.num_refused += 1
            raise KVCacheFull
        self.batch_sizes.append(batch.num_tokens)
        self._rows = []
        for chunk in batch:
            self._compute(chunk.slot, chunk.start_pos, chunk.token_ids)
            assert 0 <= chunk.num_rows <= chunk.num_tokens
            token_ids = self.tokens(chunk.slot)
            self._rows += [self.row(token_ids[: len(token_ids) - after]) for after in reversed(range(chunk.num_rows))]

    def set_threads(self, threads: int) -> None:
        self.threads.append(threads)

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        assert num_rows == len(self._rows)
        return np.stack(self._rows)

    def _compute(self, slot: int, start_pos: int, token_ids: Int32Array) -> None:
        assert len(self.slots[slot]) == start_pos, f"slot {slot} holds {len(self.slots[slot])} tokens, the next is at {start_pos}"
        assert len(token_ids)
        self.slots[slot] += [Cell(token_id) for token_id in token_ids.tolist()]

    def row(self, token_ids: list[int]) -> npt.NDArray[np.float32]:
        """The logits after these tokens."""
        seed = zlib.crc32(np.array(token_ids, np.int32).tobytes())
        row = (np.arange(self.vocab_size, dtype=np.int64) * (seed | 1) % 9973 / 9973).astype(np.float32) * 3
        row[self.next_token(token_ids)] = 5.0
        if self.corrupt:
            self.corrupt(token_ids, row)
        return row


class FakeVocabulary:
    """64 tokens: letters, digits, a space, and at the end one that ends an answer. Other pieces may be given."""

    def __init__(self, pieces: Iterable[bytes] | None = None, *, suppressed: tuple[int, ...] = ()) -> None:
        letters = string.ascii_letters + string.digits + " "
        self.pieces = [letter.encode() for letter in letters] if pieces is None else list(pieces)
        self.pieces.append(b"")  # the end token's
        self.vocab_size = len(self.pieces)
        self.end_token = self.vocab_size - 1
        self.end_tokens = frozenset({self.end_token})
        self.suppressed_tokens = suppressed
        self.bos_id: int | None = None

    def piece(self, token_id: int) -> bytes:
        return self.pieces[token_id]

    def label(self, token_id: int) -> bytes:
        return self.pieces[token_id] or b"<|%d|>" % token_id

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(letter.encode()) for letter in text]


def answering(answer: list[int], num_prompt_tokens: int, then: int) -> NextToken:
    """A next token that says `answer` after a prompt of so many tokens, and `then` for ever after."""
    return lambda token_ids: [*answer[len(token_ids) - num_prompt_tokens :], then][0]
