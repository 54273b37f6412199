"""How many threads to calculate with, when others want the cores too.

llama.cpp's threads meet at a barrier after every operation, hundreds of times a token, and wait for each other spinning.
If one of them has lost its core to a compiler or a browser, all wait until the system gives it back: one busy neighbour
on two cores makes two threads many times slower than one. So the engine gives up the threads that have no core, and
takes them back when cores are idle.
"""

from __future__ import annotations

import time
from typing import Protocol

import psutil

WINDOW_S = 0.2  # how long it looks before it decides
LEAST_SHARE = 0.85  # below it, our threads waited for cores
FREE_CORES = 0.9  # so many idle ones allow one thread more


class Clocks(Protocol):
    """Seconds, each since some moment."""

    def wall(self) -> float: ...

    def cpu(self) -> float:
        """What this process has calculated, over all its threads."""

    def idle(self) -> float:
        """What all cores together have idled."""


class SystemClocks:
    def wall(self) -> float:
        return time.perf_counter()

    def cpu(self) -> float:
        return time.process_time()

    def idle(self) -> float:
        times = psutil.cpu_times()
        return float(times.idle + getattr(times, "iowait", 0.0))


class ThreadGovernor:
    """`threads` between 1 and `most`, adjusted by what the steps before got of the cores."""

    def __init__(self, most: int, clocks: Clocks | None = None) -> None:
        self.most = most
        self.threads = most
        self._clocks = clocks or SystemClocks()
        self._restart()

    def start_step(self) -> None:
        self._step_wall, self._step_cpu = self._clocks.wall(), self._clocks.cpu()

    def end_step(self) -> bool:
        """True where `threads` has changed."""
        self._busy_wall += self._clocks.wall() - self._step_wall
        self._busy_cpu += self._clocks.cpu() - self._step_cpu
        elapsed = self._clocks.wall() - self._since
        if elapsed < WINDOW_S or self.most == 1:
            return False
        idle_cores = (self._clocks.idle() - self._idle_since) / elapsed
        before, self.threads = self.threads, self._decide(self._busy_cpu / (self._busy_wall * self.threads), idle_cores)
        self._restart()
        return self.threads != before

    def _decide(self, share: float, idle_cores: float) -> int:
        """share: of the time that our threads wanted a core, how much they had one.

        Idle cores and a low share together mean that they waited for something else, such as a GPU.
        """
        if idle_cores >= FREE_CORES:
            return min(self.threads + int(idle_cores + 1 - FREE_CORES), self.most)
        if share < LEAST_SHARE:
            return max(int(self.threads * share), 1)
        return self.threads

    def _restart(self) -> None:
        self._since, self._idle_since = self._clocks.wall(), self._clocks.idle()
        self._busy_wall = self._busy_cpu = 0.0
