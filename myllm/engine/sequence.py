"""A Sequence is one generation: its tokens and how far they have been computed. A Batch is what one decode evaluates.

No llama.cpp here, and no clock: the scheduler and its tests need nothing but these. The sampler, the detokenizer and the
log probabilities ride along because they live exactly as long as the sequence, also while it is preempted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as SequenceOf
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from myllm.engine.tokens import Int32Array, TokenBuffer
from myllm.types import FinishReason

if TYPE_CHECKING:
    from myllm.engine.detokenizer import Detokenizer
    from myllm.engine.logprobs import Logprobs
    from myllm.engine.sampler import Sampler


class SequenceStatus(Enum):
    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    FINISHED = auto()


class Sequence:
    """One generation. `wants_prompt_rows`: a row of logits for each token of the prompt, not for its last one alone.

    # [0, num_cached)          found in the KV cache when it was first admitted
    # [num_cached, computed)   ours: evaluated since; kept on release for whoever shares the prefix
    # [computed, len)          known tokens, not yet evaluated
    """

    def __init__(self, id: int, token_ids: SequenceOf[int] | Int32Array, max_tokens: int, *, wants_prompt_rows: bool = False) -> None:
        self.id = id
        self.tokens = TokenBuffer(token_ids)
        self.num_prompt_tokens = len(self.tokens)
        self.num_prompt_rows = 0 if wants_prompt_rows else self.num_prompt_tokens  # rows of the prompt that nobody asks for (again)
        self.max_tokens = max_tokens
        self.status = SequenceStatus.WAITING
        self.slot: int | None = None
        self.num_computed = 0
        self.num_cached_tokens: int | None = None  # None until the first admission
        self.finish_reason: FinishReason | None = None
        self.sampler: Sampler | None = None
        self.detokenizer: Detokenizer | None = None
        self.logprobs: Logprobs | None = None

    def __repr__(self) -> str:
        return f"<Sequence {self.id} {self.status.name} {self.num_computed}/{len(self.tokens)} slot={self.slot}>"

    @property
    def token_ids(self) -> Int32Array:
        return self.tokens.view

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def wants_prompt_rows(self) -> bool:
        """Are there rows of the prompt that it still waits for? Nothing has been generated then."""
        return self.num_prompt_rows < self.num_prompt_tokens

    @property
    def first_row(self) -> int:
        """Where the first token stands whose logits are wanted: those before it may come from the cache, it may not."""
        return self.num_prompt_rows if self.wants_prompt_rows else len(self.tokens) - 1

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    def commit(self, num_tokens: int) -> None:
        """So many more of its tokens have been evaluated, and their rows are there."""
        self.num_computed += num_tokens
        if self.wants_prompt_rows:
            self.num_prompt_rows = max(self.num_prompt_rows, self.num_computed)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one sequence's tokens in a Batch; the last `num_rows` of them give logits."""

    seq: Sequence
    slot: int
    start_pos: int
    num_tokens: int
    num_rows: int

    @property
    def token_ids(self) -> Int32Array:
        return self.seq.token_ids[self.start_pos : self.start_pos + self.num_tokens]


@dataclass(slots=True)
class Batch:
    """The chunks of one decode, in order; at most one chunk a sequence."""

    chunks: list[Chunk] = field(default_factory=list)
    num_tokens: int = 0
    num_rows: int = 0

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.chunks)

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.num_tokens += chunk.num_tokens
        self.num_rows += chunk.num_rows

    def with_rows(self) -> list[Chunk]:
        """The chunks that get logits; the rows are theirs in this order."""
        return [chunk for chunk in self.chunks if chunk.num_rows]
