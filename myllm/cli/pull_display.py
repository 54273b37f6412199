"""How a person sees pulls run: a bar for each on a terminal, a line now and then anywhere else. All of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from myllm.cli.terminal import note, printable, size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars, TaskID

    from myllm.store.pull_progress import Progress, Report

LINE_EVERY_SHARE = 0.1
MAX_SHOWN_NAME = 48


class Display(Protocol):
    """Reports may come from any thread; `name` is what the person wrote."""

    def report(self, name: str) -> Report: ...

    def fail(self, name: str) -> None: ...


@contextmanager
def open_display() -> Iterator[Display]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bars, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[told]}", markup=False))
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _Terminal(bars)


class _Terminal:
    """A bar for each model."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def report(self, name: str) -> Report:
        task = self._bars.add_task(_shortened(printable(name)), total=None, told="looking it up")
        self._tasks[name] = task
        return lambda progress: self._move(task, progress)

    def fail(self, name: str) -> None:
        self._bars.remove_task(self._tasks[name])  # the error follows, in a line of its own

    def _move(self, task: TaskID, progress: Progress) -> None:
        name = _shortened(printable(progress.name))
        self._bars.update(task, description=name, total=progress.total, completed=progress.completed, told=_told(progress))


class _Lines:
    """A line for each status, and for each tenth of the bytes."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}

    def report(self, name: str) -> Report:
        return lambda progress: self._tell(name, progress)

    def fail(self, name: str) -> None:
        pass

    def _tell(self, name: str, progress: Progress) -> None:
        tenth = int(progress.completed / progress.total / LINE_EVERY_SHARE) if progress.status == "downloading" else 0
        if self._last.get(name) != (progress.status, tenth):
            self._last[name] = (progress.status, tenth)
            note(f"{progress.name}: {_told(progress)}")


def _told(progress: Progress) -> str:
    """`42 %  1.9 of 4.7 GB  88 MB/s  32 s left`"""
    if progress.status != "downloading":
        return "done" if progress.status == "success" else "checking what came"
    told = [f"{progress.completed / progress.total:4.0%}", f"{size(progress.completed)} of {size(progress.total)}"]
    if progress.bytes_per_second:
        told.append(f"{size(progress.bytes_per_second)}/s")
    if progress.seconds_left is not None:
        told.append(f"{_duration(progress.seconds_left)} left")
    return "  ".join(told)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_SHOWN_NAME else f"…{name[-MAX_SHOWN_NAME + 1 :]}"
