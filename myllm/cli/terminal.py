"""How verbs speak to people: tables, lines, JSON, an error in red, a line that waits for a model.

A terminal gets colours and movement; a pipe or a file gets the same words plain. Control characters in what models and
other people wrote are shown as `�` on a terminal, so that no answer and no title can move its cursor or rename its
window; a pipe gets every character as it is.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import typer

from myllm.errors import MyLLMError

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and what reverses the direction of text
_PIPE_WIDTH = 10_000  # columns that no table reaches: a pipe has no edge to wrap at


def printable(text: str) -> str:
    return _CONTROLS.sub("�", text)


def say(text: str, **style: Any) -> None:
    """A line of other people's words on stdout."""
    typer.secho(printable(text) if sys.stdout.isatty() else text, **style)


def note(text: str) -> None:
    """A remark beside the answer: on stderr, so that a pipe stays clean."""
    typer.secho(printable(text), err=True, dim=True)


def show_error(message: str) -> None:
    typer.secho(f"error: {printable(message)}", err=True, fg="red")


def write(text: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under their names, numbers and texts alike to the left; without names, just the columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_terminal = sys.stdout.isatty()
    table = Table(*header, box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", show_header=any(header))
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", not is_terminal
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if is_terminal else _PIPE_WIDTH).print(table)


class Waiting:
    """A line on the terminal that tells how far a model's load is, until `end`; on anything else than a terminal, nothing.

    progress: the share that is loaded, None while nothing loads; asked a few times a second from a thread of its own.
    """

    def __init__(self, name: str, progress: Callable[[], float | None]) -> None:
        from rich.console import Console

        self.name = name
        self._progress = progress
        self._over = threading.Event()
        self._status = Console(stderr=True).status("")
        self._status.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        self._over.set()
        self._status.stop()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            try:
                share = self._progress()
            except (MyLLMError, RuntimeError):  # the server may be gone, the client closed
                continue
            self._status.update("" if share is None else f"loading {printable(self.name)} {share:.0%}")


@contextmanager
def waiting_for_model(name: str, progress: Callable[[], float | None]) -> Iterator[Callable[[], None]]:
    """Show a Waiting line until the context ends, or until what it yields is called."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    waiting = Waiting(name, progress)
    try:
        yield waiting.end
    finally:
        waiting.end()


def can_ask() -> bool:
    """Is there a person at both ends?"""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout.isatty())


def size(num_bytes: float) -> str:
    """`5.2 MB`, as disks and catalogues count."""
    return _scaled(num_bytes, (" B", " kB", " MB", " GB", " TB"))


def count(number: float) -> str:
    """`5.2M` parameters, `7B`."""
    return _scaled(number, ("", "k", "M", "B"))


def _scaled(number: float, units: Sequence[str]) -> str:
    """Three digits or so, in the first unit that makes them few."""
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    is_whole = number >= 99.5 or round(number, 1) == round(number)
    return f"{number:.0f}{units[power]}" if is_whole else f"{number:.1f}{units[power]}"


def local_time(written: str) -> str:
    """`2026-01-02 03:04` here, from a time in ISO 8601."""
    return datetime.fromisoformat(written).astimezone().strftime("%Y-%m-%d %H:%M")
