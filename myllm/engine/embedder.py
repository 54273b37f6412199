"""Embeddings and scores: a second context on the same model, made when first asked for; many inputs share one decode.

A pooled vector needs all tokens of its input in one physical batch, so the context is as large as the longest input so
far (in powers of two, up to what the model was trained on) and is made anew when a longer one comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from myllm.engine.tokens import Int32Array

Float32Array = npt.NDArray[np.float32]
SMALLEST_CONTEXT = 512
MAX_INPUTS = 64  # slots of the embedding context


class EmbeddingContext(Protocol):
    batch_tokens: int

    def embed(self, inputs: list[Int32Array]) -> list[Float32Array]: ...
    def close(self) -> None: ...


@dataclass(eq=False)
class EmbeddingJob:
    """One request: its inputs, and the vectors so far, L2-normalised, in order."""

    id: int
    inputs: list[Int32Array]
    vectors: list[Float32Array] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return len(self.vectors) == len(self.inputs)

    def take(self, output: Float32Array) -> None:
        """What the model made of the next input."""
        length = float(np.linalg.norm(output))
        self.vectors.append(output / length if length > 0 else output)


class RankingJob(EmbeddingJob):
    """A query beside each of some documents, on a model that ranks: its outputs are scores and stay as they are."""

    @property
    def scores(self) -> list[float]:
        return [float(output[0]) for output in self.vectors]

    def take(self, output: Float32Array) -> None:
        self.vectors.append(output)


class Embedder:
    """Jobs by arrival; `step` runs one decode over as many inputs as fit, also of different jobs."""

    def __init__(self, make_context: Callable[[int], EmbeddingContext]) -> None:
        """make_context(num_tokens) gives a context that takes so many tokens in one decode."""
        self._make_context = make_context
        self._context: EmbeddingContext | None = None
        self._jobs: deque[EmbeddingJob] = deque()

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def add(self, job: EmbeddingJob) -> None:
        self._jobs.append(job)

    def cancel(self, job_id: int) -> None:
        self._jobs = deque(job for job in self._jobs if job.id != job_id)

    def step(self, max_tokens: int) -> list[EmbeddingJob]:
        """One decode of about `max_tokens` (one input at least); returns the jobs that it finished."""
        pack = self._pack(max_tokens)
        if pack:  # a job without inputs asks for nothing
            context = self._context_for(sum(len(token_ids) for _, token_ids in pack))
            for (job, _), vector in zip(pack, context.embed([token_ids for _, token_ids in pack]), strict=True):
                job.take(vector)
        finished = [job for job in self._jobs if job.is_finished]
        self._jobs = deque(job for job in self._jobs if not job.is_finished)
        return finished

    def _pack(self, max_tokens: int) -> list[tuple[EmbeddingJob, Int32Array]]:
        pack: list[tuple[EmbeddingJob, Int32Array]] = []
        total = 0
        for job in self._jobs:
            for token_ids in job.inputs[len(job.vectors) :]:
                total += len(token_ids)
                if pack and (total > max_tokens or len(pack) == MAX_INPUTS):
                    return pack
                pack.append((job, token_ids))
        return pack

    def _context_for(self, num_tokens: int) -> EmbeddingContext:
        if self._context is None or self._context.batch_tokens < num_tokens:
            if self._context is not None:
                self._context.close()
            self._context = self._make_context(max(SMALLEST_CONTEXT, 1 << (num_tokens - 1).bit_length()))
        return self._context
