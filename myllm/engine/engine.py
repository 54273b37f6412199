"""The Engine: one model, many sequences, one `step()` for all of them.

It owns the context, the scheduler and the cache, and lives on one thread; requests are handed to it between steps. What
it produces are `Delta`s: the text that a step made certain for each sequence, and how the sequence ended.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence as SequenceOf
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from myllm.engine.detokenizer import Detokenizer
from myllm.engine.kv_cache import KVCache, Memory
from myllm.engine.llama import KVCacheFull, SamplerChain
from myllm.engine.logprobs import Logprobs
from myllm.engine.prefill_budget import PrefillBudget
from myllm.engine.sampler import Sampler
from myllm.engine.scheduler import Scheduler
from myllm.engine.sequence import Batch, Chunk, Sequence, SequenceStatus
from myllm.engine.threads import ThreadGovernor
from myllm.engine.tokens import Int32Array
from myllm.errors import ContextLengthExceeded, EngineFault, InvalidRequest
from myllm.types import Delta, EngineStats, FinishReason, SamplingParams, Usage

log = logging.getLogger("myllm.engine")


class Vocabulary(Protocol):
    vocab_size: int
    end_tokens: frozenset[int]
    suppressed_tokens: tuple[int, ...]
    bos_id: int | None

    def piece(self, token_id: int) -> bytes: ...
    def label(self, token_id: int) -> bytes: ...


class Context(Memory, Protocol):
    num_cells: int
    batch_tokens: int
    max_rows: int

    def decode(self, batch: Batch) -> None: ...
    def logits(self, num_rows: int) -> npt.NDArray[np.float32]: ...
    def set_threads(self, threads: int) -> None: ...


class Engine:
    """`name` is the model's, for messages; `context_length` bounds one sequence."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        context: Context,
        *,
        name: str,
        context_length: int,
        num_slots: int,
        can_cut: bool,
        max_gap_s: float,
        threads: int = 1,
    ) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.name = name
        self.context_length = context_length
        self.cache = KVCache(num_slots, context.num_cells, context, can_cut=can_cut)
        self.prefill_budget = PrefillBudget(max_gap_s, context.batch_tokens)
        self.scheduler = Scheduler(self.cache, context.batch_tokens, self.prefill_budget, context.max_rows)
        self.sequences: dict[int, Sequence] = {}
        self.num_prompt_tokens = self.num_generated_tokens = self.num_cached_tokens = 0
        self._rate = TokenRate()
        self._threads = ThreadGovernor(threads)

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def check(self, token_ids: Int32Array, params: SamplingParams) -> None:
        """Raises what is wrong with a request before it is queued; safe on any thread."""
        if not len(token_ids):
            raise InvalidRequest("the prompt is empty: it has no tokens", param="prompt")
        if len(token_ids) >= self.context_length:
            raise ContextLengthExceeded(
                f"prompt has {len(token_ids):,} tokens, model '{self.name}' takes {self.context_length:,} with the answer; "
                "shorten it or load the model with a larger context_size",
                param="messages",
            )
        check_token_ids(token_ids, self.vocabulary.vocab_size, "prompt")
        check_token_ids(list(params.logit_bias), self.vocabulary.vocab_size, "logit_bias")

    def add(self, request_id: int, token_ids: Int32Array, params: SamplingParams) -> None:
        """Queue a checked request."""
        room = self.context_length - len(token_ids)
        seq = Sequence(request_id, token_ids, min(params.max_tokens or room, room), wants_prompt_rows=params.prompt_logprobs)
        forbidden = set(self.vocabulary.suppressed_tokens) | (self.vocabulary.end_tokens if params.ignore_eos else set())
        seq.sampler = Sampler(params, seq.token_ids, forbidden=forbidden, make_chain=SamplerChain)
        seq.detokenizer = Detokenizer(params.stop)
        if params.num_logprobs is not None or params.prompt_logprobs:
            seq.logprobs = Logprobs(self.vocabulary, params, token_ids)
        self.sequences[request_id] = seq
        self.scheduler.add(seq)

    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it is; its cells are free for others at once. Unknown ids are ignored."""
        seq = self.sequences.pop(request_id, None)
        if seq is not None:
            self.scheduler.finish(seq, FinishReason.CANCELLED)

    def step(self) -> list[Delta]:
        """One tick: schedule, one decode, one sampled token for each sequence whose last known token was evaluated."""
        batch = self.scheduler.schedule()
        deltas = [self._ended(seq, "") for seq in self.scheduler.take_outgrown()]
        if not batch:
            return deltas
        started = time.perf_counter()
        self._threads.start_step()
        try:
            self.context.decode(batch)
        except KVCacheFull:
            log.warning("llama.cpp found no cells for %d tokens where %d were free", batch.num_tokens, self.cache.num_available)
            self.scheduler.roll_back(batch)
            return deltas + [self._ended(seq, "") for seq in self.scheduler.take_outgrown()]
        if self._threads.end_step():
            self.context.set_threads(self._threads.threads)
        chunks = batch.with_rows()
        num_decode = sum(chunk.seq.status is SequenceStatus.DECODE for chunk in batch)
        self.scheduler.commit(batch)
        num_picks = sum(chunk.seq.status is SequenceStatus.DECODE for chunk in chunks)
        deltas += self._sample(chunks)
        self.prefill_budget.observe(batch.num_tokens - num_decode, num_decode, time.perf_counter() - started)
        self.num_prompt_tokens += batch.num_tokens - num_decode
        self.num_generated_tokens += num_picks
        self._rate.add(num_picks)
        return deltas

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            cells_used=self.cache.num_used,
            prompt_tokens=self.num_prompt_tokens,
            generated_tokens=self.num_generated_tokens,
            cached_tokens=self.num_cached_tokens,
            preemptions=self.scheduler.num_preemptions,
            tokens_per_second=self._rate.per_second(),
        )

    def _sample(self, chunks: list[Chunk]) -> list[Delta]:
        if not chunks:
            return []
        ends = list(itertools.accumulate(chunk.num_rows for chunk in chunks))
        logits = self.context.logits(ends[-1])
        own = ((chunk.seq, logits[end - chunk.num_rows : end]) for chunk, end in zip(chunks, ends, strict=True))
        return [delta for seq, rows in own if (delta := self._advance(seq, rows))]

    def _advance(self, seq: Sequence, rows: npt.NDArray[np.float32]) -> Delta | None:
        """Pick the sequence's next token from the last of its rows; None where that brings no text and no end."""
        assert seq.sampler is not None and seq.detokenizer is not None
        try:
            if seq.logprobs:
                seq.logprobs.read(rows)
            if seq.status is SequenceStatus.PREFILL:
                return None  # rows of a prompt of which more is to come
            token_id = seq.sampler.pick(rows[-1])
        except EngineFault as error:  # this row is broken; the others may be fine
            self.scheduler.finish(seq, FinishReason.CANCELLED)
            self.cache.clear()  # what it computed may be broken as well: nobody shall start from it
            return msgspec.structs.replace(self._ended(seq, ""), error=(error.code, error.message))
        seq.sampler.accept(token_id)
        self.scheduler.advance(seq, token_id)
        if token_id in self.vocabulary.end_tokens:
            return self._finish(seq, FinishReason.STOP, "")
        if seq.logprobs:
            seq.logprobs.accept(token_id)
        text = seq.detokenizer.decode(self.vocabulary.piece(token_id))
        if seq.detokenizer.is_stopped:
            return self._finish(seq, FinishReason.STOP, text)
        if seq.num_output_tokens >= seq.max_tokens:
            return self._finish(seq, FinishReason.LENGTH, text)
        delta = Delta(seq.id, text)
        if seq.logprobs:
            delta = seq.logprobs.tell(delta)
        return delta if delta.text or delta.prompt_logprobs else None

    def _finish(self, seq: Sequence, reason: FinishReason, text: str) -> Delta:
        self.scheduler.finish(seq, reason)
        return self._ended(seq, text)

    def _ended(self, seq: Sequence, text: str) -> Delta:
        assert seq.finish_reason is not None and seq.detokenizer is not None
        del self.sequences[seq.id]
        cached = seq.num_cached_tokens or 0
        self.num_cached_tokens += cached
        usage = Usage(seq.num_prompt_tokens, seq.num_output_tokens, cached)
        text += seq.detokenizer.flush()
        delta = Delta(seq.id, text, seq.finish_reason, usage, stop_string=seq.detokenizer.stop_string)
        return seq.logprobs.tell(delta) if seq.logprobs else delta


class TokenRate:
    """Tokens per second over about the last two seconds."""

    def __init__(self, window_s: float = 2.0) -> None:
        self.window_s = window_s
        self._since = time.monotonic()
        self._count = 0
        self._last = 0.0

    def add(self, count: int) -> None:
        self._count += count
        elapsed = time.monotonic() - self._since
        if elapsed >= self.window_s:
            self._last, self._count, self._since = self._count / elapsed, 0, time.monotonic()

    def per_second(self) -> float:
        """0.0 once nothing has been generated for two windows."""
        return self._last if time.monotonic() - self._since < 2 * self.window_s else 0.0


def check_token_ids(token_ids: SequenceOf[int] | Int32Array, vocab_size: int, param: str) -> None:
    """llama.cpp refuses a whole batch for one bad id, so they are refused one request at a time, here."""
    try:
        values = np.asarray(token_ids, dtype=np.int64)
        is_inside = not len(values) or bool(values.min() >= 0 and values.max() < vocab_size)
    except OverflowError:  # beyond 64 bits
        is_inside = False
    if not is_inside:
        raise InvalidRequest(f"'{param}' holds a token id outside of the vocabulary: 0 to {vocab_size - 1:,}", param=param)
