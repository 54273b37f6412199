"""Tokens by model, over all the workers that it had."""

from __future__ import annotations

from typing import Any

from myllm.tally import Tally, Worked
from myllm.types import EngineStats


class FakeWorker:
    def __init__(self, name: str, prompt: int = 0, generated: int = 0) -> None:
        self.name = name
        self.is_alive = True
        self.stats = EngineStats(prompt_tokens=prompt, generated_tokens=generated, cached_tokens=1, preemptions=2)


def tally_of(*workers: Any) -> Tally:
    tally = Tally()
    for worker in workers:
        tally.add(worker)
    return tally


def test_a_worker_counts_while_it_lives() -> None:
    worker = FakeWorker("a")
    tally = tally_of(worker)

    worker.stats = EngineStats(prompt_tokens=5, generated_tokens=7, cached_tokens=3)

    assert tally.totals() == tally.totals() == {"a": Worked(5, 3, 7, 0)}


def test_what_a_worker_did_outlives_it_and_the_next_one_adds_to_it() -> None:
    first, second, other = FakeWorker("a", 5, 7), FakeWorker("a", 10, 20), FakeWorker("b", 1, 1)
    tally = tally_of(first)
    first.is_alive = False

    assert tally.totals() == {"a": Worked(5, 1, 7, 2)}
    tally.add(second)  # type: ignore[arg-type]
    tally.add(other)  # type: ignore[arg-type]
    assert tally.totals() == {"a": Worked(15, 2, 27, 4), "b": Worked(1, 1, 1, 2)}


def test_workers_that_have_ended_are_not_kept() -> None:
    tally = Tally()
    for _ in range(50):
        worker = FakeWorker("a", 1, 1)
        tally.add(worker)  # type: ignore[arg-type]
        worker.is_alive = False

    assert tally.totals()["a"].prompt_tokens == 50
    assert tally._workers == []
