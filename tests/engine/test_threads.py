"""Giving up threads that have no core, and taking them back: the policy, on clocks that the test turns."""

from __future__ import annotations

from dataclasses import dataclass

from myllm.engine.threads import WINDOW_S, SystemClocks, ThreadGovernor


@dataclass
class Clocks:
    """A machine with so many cores, of which neighbours keep some busy."""

    cores: float
    neighbours: float = 0.0
    at: float = 0.0
    used: float = 0.0
    idled: float = 0.0

    def wall(self) -> float:
        return self.at

    def cpu(self) -> float:
        return self.used

    def idle(self) -> float:
        return self.idled

    def calculate(self, threads: int, seconds: float) -> None:
        """Our threads want a core each; where cores are short, all programs get their share."""
        wanted = threads + self.neighbours
        share = min(self.cores / wanted, 1.0)
        self.at += seconds
        self.used += threads * share * seconds
        self.idled += max(self.cores - wanted, 0.0) * seconds


def run(governor: ThreadGovernor, clocks: Clocks, seconds: float) -> list[int]:
    """Steps of 10 ms; the numbers of threads that were decided on."""
    decided = []
    for _ in range(round(seconds / 0.01)):
        governor.start_step()
        clocks.calculate(governor.threads, 0.01)
        if governor.end_step():
            decided.append(governor.threads)
    return decided


def test_alone_on_the_machine_all_threads_stay() -> None:
    clocks = Clocks(cores=4)
    governor = ThreadGovernor(4, clocks)

    assert run(governor, clocks, 5) == [] and governor.threads == 4


def test_a_busy_neighbour_costs_the_thread_that_has_no_core_within_one_window() -> None:
    clocks = Clocks(cores=2, neighbours=1)
    governor = ThreadGovernor(2, clocks)

    assert run(governor, clocks, 2 * WINDOW_S) == [1]


def test_threads_come_back_when_the_neighbour_is_gone() -> None:
    clocks = Clocks(cores=8, neighbours=6)
    governor = ThreadGovernor(8, clocks)
    run(governor, clocks, 3)
    assert governor.threads <= 4

    clocks.neighbours = 0
    run(governor, clocks, 3)

    assert governor.threads == 8


def test_it_does_not_swing_while_nothing_changes() -> None:
    clocks = Clocks(cores=8, neighbours=3)
    governor = ThreadGovernor(8, clocks)
    run(governor, clocks, 3)

    assert run(governor, clocks, 10) == [] and 4 <= governor.threads <= 5


def test_one_thread_always_stays() -> None:
    clocks = Clocks(cores=2, neighbours=50)
    governor = ThreadGovernor(2, clocks)

    run(governor, clocks, 3)

    assert governor.threads == 1


def test_waiting_for_a_gpu_is_no_reason_to_give_up_threads() -> None:
    clocks = Clocks(cores=8)
    governor = ThreadGovernor(4, clocks)

    for _ in range(100):
        governor.start_step()
        clocks.at += 0.01  # nothing calculated, all cores idle
        clocks.idled += 0.08
        governor.end_step()

    assert governor.threads == 4


def test_the_systems_clocks_move_forward() -> None:
    clocks = SystemClocks()
    before = clocks.wall(), clocks.cpu(), clocks.idle()

    sum(range(100_000))

    assert clocks.wall() > before[0] and clocks.cpu() > before[1] and clocks.idle() >= before[2]
