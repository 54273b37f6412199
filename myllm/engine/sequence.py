"""A Sequence is one generation: its tokens and how far they have been computed. A Batch is what one decode evaluates.

No llama.cpp here, and no clock: the scheduler and its tests need nothing but these. The sampler and the detokenizer ride
along because they live exactly as long as the sequence, also while it is preempted.
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
    from myllm.engine.sampler import Sampler


class SequenceStatus(Enum):
    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    FINISHED = auto()


class Sequence:
    """One generation.

    # [0, num_cached)          found in the KV cache when it was first admitted
    # [num_cached, computed)   ours: evaluated since; kept on release for whoever shares the prefix
    # [computed, len)          known tokens, not yet evaluated
    """

    def __init__(self, id: int, token_ids: SequenceOf[int] | Int32Array, max_tokens: int) -> None:
        self.id = id
        self.tokens = TokenBuffer(token_ids)
        self.num_prompt_tokens = len(self.tokens)
        self.max_tokens = max_tokens
        self.status = SequenceStatus.WAITING
        self.slot: int | None = None
        self.num_computed = 0
        self.num_cached_tokens: int | None = None  # None until the first admission
        self.finish_reason: FinishReason | None = None
        self.sampler: Sampler | None = None
        self.detokenizer: Detokenizer | None = None

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
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one sequence's tokens in a Batch; its last row gives logits if `wants_logits`."""

    seq: Sequence
    slot: int
    start_pos: int
    num_tokens: int

    @property
    def token_ids(self) -> Int32Array:
        return self.seq.token_ids[self.start_pos : self.start_pos + self.num_tokens]

    @property
    def wants_logits(self) -> bool:
        return self.start_pos + self.num_tokens == len(self.seq.tokens)


@dataclass(slots=True)
class Batch:
    """The chunks of one decode, in order; at most one chunk a sequence."""

    chunks: list[Chunk] = field(default_factory=list)
    num_tokens: int = 0

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.chunks)

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.num_tokens += chunk.num_tokens

    def logit_rows(self) -> list[Chunk]:
        """The chunks that get logits; the i-th of them owns the i-th row of the logits."""
        return [chunk for chunk in self.chunks if chunk.wants_logits]
