from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from myllm.engine.embedder import MAX_INPUTS, SMALLEST_CONTEXT, Embedder, EmbeddingJob


class FakeEmbeddingContext:
    """A vector that tells its input: (sum, length). Asserts what llama.cpp would answer with a fault."""

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self.is_closed = False
        self.packs: list[list[int]] = []

    def embed(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        assert not self.is_closed
        assert 0 < len(inputs) <= MAX_INPUTS
        assert 0 < sum(map(len, inputs)) <= self.batch_tokens
        self.packs.append([len(token_ids) for token_ids in inputs])
        return [np.array([token_ids.sum(), len(token_ids)], np.float32) for token_ids in inputs]

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class Bench:
    def __init__(self) -> None:
        self.contexts: list[FakeEmbeddingContext] = []
        self.embedder = Embedder(self._make)

    def _make(self, num_tokens: int) -> FakeEmbeddingContext:
        self.contexts.append(FakeEmbeddingContext(num_tokens))
        return self.contexts[-1]

    @property
    def packs(self) -> list[list[int]]:
        return [pack for context in self.contexts for pack in context.packs]

    def add(self, id: int, *lengths: int) -> EmbeddingJob:
        job = EmbeddingJob(id, [np.full(length, id + at + 1, np.int32) for at, length in enumerate(lengths)])
        self.embedder.add(job)
        return job

    def run(self, max_tokens: int = 512) -> list[EmbeddingJob]:
        finished = []
        while self.embedder.has_work:
            finished += self.embedder.step(max_tokens)
        return finished


def is_right(job: EmbeddingJob) -> bool:
    expected = [np.array([token_ids.sum(), len(token_ids)], float) for token_ids in job.inputs]
    return all(np.allclose(a, b / np.linalg.norm(b)) for a, b in zip(job.vectors, expected, strict=True))


def test_the_inputs_of_one_job_share_a_decode():
    bench = Bench()
    job = bench.add(1, 3, 4, 5)

    finished = bench.embedder.step(512)

    assert bench.packs == [[3, 4, 5]]
    assert finished == [job]
    assert is_right(job)


def test_jobs_share_a_decode_and_keep_their_order():
    bench = Bench()
    jobs = [bench.add(1, 3, 4), bench.add(2, 5)]

    assert bench.run() == jobs
    assert bench.packs == [[3, 4, 5]]
    assert all(is_right(job) for job in jobs)


def test_a_job_that_does_not_fit_into_one_decode_takes_several():
    bench = Bench()
    job = bench.add(1, 6, 6, 6)

    first = bench.embedder.step(13)
    second = bench.embedder.step(13)

    assert (first, second) == ([], [job])
    assert bench.packs == [[6, 6], [6]]
    assert is_right(job)


def test_an_input_longer_than_the_step_goes_alone():
    bench = Bench()
    bench.add(1, 3, 100, 3)

    bench.run(max_tokens=10)

    assert bench.packs == [[3], [100], [3]]


def test_no_more_inputs_than_slots_in_one_decode():
    bench = Bench()
    job = bench.add(1, *[1] * (2 * MAX_INPUTS + 3))

    bench.run()

    assert [len(pack) for pack in bench.packs] == [MAX_INPUTS, MAX_INPUTS, 3]
    assert is_right(job)


def test_no_context_is_made_before_it_is_needed():
    assert Bench().contexts == []


def test_the_context_grows_with_the_longest_input_and_the_old_one_is_closed():
    bench = Bench()
    bench.add(1, 10)
    bench.add(2, 1_000)
    bench.add(3, 10)

    bench.run()

    assert [context.batch_tokens for context in bench.contexts] == [SMALLEST_CONTEXT, 1024]
    assert [context.is_closed for context in bench.contexts] == [True, False]


@pytest.mark.parametrize(("length", "expected"), [(512, 512), (513, 1024), (1024, 1024), (1025, 2048)])
def test_the_context_is_the_next_power_of_two(length, expected):
    bench = Bench()
    bench.add(1, length)

    bench.run()

    assert [context.batch_tokens for context in bench.contexts] == [expected]


def test_a_job_can_be_cancelled_in_the_middle():
    bench = Bench()
    gone = bench.add(1, 6, 6, 6)
    stays = bench.add(2, 6)
    bench.embedder.step(6)

    bench.embedder.cancel(1)

    assert bench.run() == [stays]
    assert len(gone.vectors) == 1
    assert is_right(stays)


def test_cancelling_what_is_unknown_changes_nothing():
    bench = Bench()
    job = bench.add(1, 3)

    bench.embedder.cancel(7)

    assert bench.run() == [job]


def test_a_job_without_inputs_is_finished_and_decodes_nothing():
    """An empty decode is an error of llama.cpp, and took the worker down."""
    bench = Bench()
    empty = bench.add(1)

    assert bench.embedder.step(512) == [empty]
    assert bench.packs == []


def test_vectors_are_normalised():
    bench = Bench()
    job = bench.add(1, 7)

    bench.run()

    assert float(np.linalg.norm(job.vectors[0])) == pytest.approx(1)


def test_a_vector_of_zeros_stays_one():
    embedder = Embedder(lambda num_tokens: Zeros(num_tokens))
    job = EmbeddingJob(1, [np.array([1], np.int32)])
    embedder.add(job)

    embedder.step(10)

    assert job.vectors[0].tolist() == [0, 0]


class Zeros(FakeEmbeddingContext):
    def embed(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [np.zeros(2, np.float32) for _ in inputs]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(1, 700), max_size=5), max_size=6), st.integers(1, 600))
def test_every_job_gets_its_vectors_however_they_are_packed(jobs, max_tokens):
    bench = Bench()
    added = [bench.add(id, *lengths) for id, lengths in enumerate(jobs)]

    finished = bench.run(max_tokens)

    assert sorted(job.id for job in finished) == [job.id for job in added]
    assert all(is_right(job) for job in added)
    assert all(sum(pack) <= max_tokens or len(pack) == 1 for pack in bench.packs)
