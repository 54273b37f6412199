"""A Sampler picks one token from a row of logits, for one sequence, with that sequence's parameters and history.

The vocabulary may have 128,000 entries and a batch 64 rows, so nothing here walks the vocabulary in Python, and little
does in C: bias and penalties touch only the tokens that they name, temperature 0 is one argmax, and llama.cpp's sampler
chain sees only the candidates that can still be drawn (a bound found with numpy's block maxima, see `_candidates`).
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from myllm.engine.tokens import Int32Array
from myllm.errors import EngineFault
from myllm.types import SamplingParams

Float32Array = npt.NDArray[np.float32]

BLOCK = 256  # logits a block when looking for the top k
WIDEST_TOP_K = 256  # above it, block maxima say too little
SMALLEST_DIVISOR = 1e-6  # of logits: what is below it makes infinities in single precision
TAIL_NATS = 24.0  # e^-24 · 128k tokens < 1e-5: what lies further below the best is never drawn


class Chain(Protocol):
    """Draws one of the candidates; llama.SamplerChain, or a test's."""

    def pick(self, token_ids: Int32Array, logits: Float32Array) -> int: ...


class Penalties:
    """repeat, frequency and presence penalties over a window of the last tokens, prompt included.

    Keeps how often each token of the window stands in it; a new token costs the same however long the window is.
    """

    def __init__(self, params: SamplingParams, history: Int32Array) -> None:
        self.params = params
        self._window: deque[int] | None = None
        recent = history
        if params.penalty_last_n >= 0:
            recent = history[max(len(history) - params.penalty_last_n, 0) :]
            self._window = deque(recent.tolist())
        ids, counts = np.unique(recent, return_counts=True)
        self._counts: dict[int, int] = dict(zip(ids.tolist(), counts.tolist(), strict=True))

    @staticmethod
    def are_neutral(params: SamplingParams) -> bool:
        is_off = params.repeat_penalty == 1.0 and params.frequency_penalty == 0.0 and params.presence_penalty == 0.0
        return is_off or params.penalty_last_n == 0

    def accept(self, token_id: int) -> None:
        self._counts[token_id] = self._counts.get(token_id, 0) + 1
        if self._window is None:
            return
        self._window.append(token_id)
        if len(self._window) > self.params.penalty_last_n:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def apply(self, logits: Float32Array) -> None:
        """llama.cpp's rule: divide (or multiply, below zero) once, then subtract count · frequency + presence."""
        if not self._counts:
            return
        ids = np.fromiter(self._counts.keys(), dtype=np.int32, count=len(self._counts))
        counts = np.fromiter(self._counts.values(), dtype=np.float32, count=len(self._counts))
        touched = logits[ids]
        repeat = max(self.params.repeat_penalty, SMALLEST_DIVISOR)
        touched = np.where(touched <= 0, touched * repeat, touched / repeat)
        logits[ids] = touched - counts * self.params.frequency_penalty - self.params.presence_penalty


class Sampler:
    """One sequence's sampler. `pick` may change the row in place; `accept` must follow with the token that was kept."""

    def __init__(
        self,
        params: SamplingParams,
        history: Int32Array,
        *,
        forbidden: Collection[int],
        make_chain: Callable[[SamplingParams, int], Chain],
    ) -> None:
        self.params = params
        self._penalties = None if Penalties.are_neutral(params) else Penalties(params, history)
        bias = params.logit_bias | dict.fromkeys(forbidden, -math.inf)
        self._bias_ids = np.fromiter(bias.keys(), dtype=np.int32, count=len(bias))
        self._bias = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))
        self._chain: Chain | None = None
        if params.temperature >= SMALLEST_DIVISOR and params.top_k != 1:
            seed = secrets.randbits(32) if params.seed is None else params.seed
            self._chain = make_chain(params, seed % 0xFFFFFFFF)  # 0xFFFFFFFF itself makes llama.cpp draw one

    def pick(self, logits: Float32Array) -> int:
        """The next token. Raises EngineFault where the model computed no numbers."""
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if self._penalties:
            self._penalties.apply(logits)
        best = int(logits.argmax())
        peak = finite_peak(logits[best])  # argmax finds a NaN first
        if self._chain is None:
            return best
        ids = self._candidates(logits, peak)
        return self._chain.pick(ids, logits[ids])

    def accept(self, token_id: int) -> None:
        if self._penalties:
            self._penalties.accept(token_id)

    def _candidates(self, logits: Float32Array, peak: float) -> Int32Array:
        """Ids that the chain could still pick: all of the top k, or all that are not hopelessly far below the best."""
        threshold = peak - TAIL_NATS * max(self.params.temperature, 1.0)
        return np.flatnonzero(logits >= max(threshold, bound_of_top(logits, self.params.top_k))).astype(np.int32)


def finite_peak(peak: float | np.float32) -> float:
    """The largest logit of a row. Raises EngineFault where the model computed no numbers."""
    if not math.isfinite(peak):
        raise EngineFault("the model computed no valid probabilities (NaN or infinity); its file may be damaged")
    return float(peak)


def bound_of_top(logits: Float32Array, k: int) -> float:
    """What the k largest are not below; minus infinity where block maxima would say too little, or k is 0."""
    if not 0 < k <= WIDEST_TOP_K or len(logits) < 2 * BLOCK * k // 4 or len(logits) // BLOCK <= k:
        return -math.inf
    whole = len(logits) // BLOCK * BLOCK
    maxima = logits[:whole].reshape(-1, BLOCK).max(axis=1)
    # the k best block maxima are k different tokens, so the k-th best token is at least the least of them
    return float(np.partition(maxima, len(maxima) - k)[len(maxima) - k])
