"""What one compilation or rendering of an untrusted template may spend: a deadline and a budget of new characters.

A template runs in a thread of the server, which nobody can kill, so whoever works for it asks here first. Two rules keep
that short. Whoever makes a value charges its size. Whoever hands a value to C code that walks all of it (`str`, `==`,
`json.dumps`) weighs it first, because a list that holds itself twice, forty times over, is small to make and endless to
walk. The meter of the running thread is found by `current_meter()`; which operations ask is `sandbox.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

from jinja2 import TemplateRuntimeError, Undefined

MAX_SECONDS = 1.0
BASE_CHARACTERS = 8_000_000
CHARACTERS_PER_INPUT = 64  # a template copies its input some ten times: trim, concatenate, output, join
MAX_INPUT_CHARACTERS = 256_000_000
MAX_DEPTH = 100  # macros that call each other; JSON bodies nest no deeper either

_SLOT = 8  # what a list pays per item; a pointer's size, near enough
_SCALARS = (int, float, complex, Undefined, type(None))


class LimitExceeded(TemplateRuntimeError):
    """A template wanted more than a chat prompt can need."""


class Meter:
    """The rest of a deadline and of a budget. One render owns it, on one thread."""

    def __init__(self, input_characters: int = 0, *, seconds: float = MAX_SECONDS) -> None:
        self.seconds = seconds
        self.deadline = monotonic() + seconds
        self.left = BASE_CHARACTERS + min(CHARACTERS_PER_INPUT * input_characters, MAX_INPUT_CHARACTERS)
        self.depth = 0

    def tick(self) -> None:
        """Once per iteration and per call."""
        if monotonic() > self.deadline:
            raise LimitExceeded(f"it ran for more than {self.seconds:g} s")

    def afford(self, size: int) -> None:
        """Refuse work whose result would take more characters than are left."""
        if size > self.left:
            raise LimitExceeded(f"it wanted a value of up to {size:,} characters, and {self.left:,} are left to it")
        self.tick()

    def charge(self, size: int) -> None:
        """Pay for a value that was made, or is about to be."""
        if size > self.left or monotonic() > self.deadline:
            self.afford(size)
        self.left -= size

    def weigh(self, value: object) -> int:
        """Characters and slots in `value`, each counted as often as a walk meets it; refuses what is too heavy to walk.

        Only plain values have a weight: a namespace may hold itself, and a function prints an address.
        """
        weight, pending = 0, [value]
        while pending:
            item = pending.pop()
            weight += _SLOT
            if isinstance(item, str | range):
                weight += len(item)
            elif isinstance(item, dict):
                weight += 2 * _SLOT * len(item)
                self.afford(weight)
                pending.extend(item)
                pending.extend(item.values())
            elif isinstance(item, list | tuple):
                weight += _SLOT * len(item)
                self.afford(weight)
                pending.extend(item)
            elif not isinstance(item, _SCALARS):
                raise LimitExceeded(f"a {type(item).__name__} cannot be printed, compared or put into a list")
        self.afford(weight)
        return weight

    def collect(self, items: Iterable[object]) -> list[object]:
        """The items of a lazy filter, at once: nested generators would overflow the C stack when they are freed."""
        collected = []
        for item in items:
            self.charge(_SLOT)
            collected.append(item)
        return collected

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One call inside another."""
        self.tick()
        if self.depth >= MAX_DEPTH:
            raise LimitExceeded(f"its calls nest deeper than {MAX_DEPTH}")
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


class MeteredIterable:
    """What a template's `for` walks: the same items and length, a tick each."""

    def __init__(self, items: Iterable[object], meter: Meter) -> None:
        self._items = items
        self._meter = meter

    def __iter__(self) -> Iterator[object]:
        tick = self._meter.tick
        for item in self._items:
            tick()
            yield item

    def __len__(self) -> int:
        if not isinstance(self._items, Sized):
            raise TypeError(f"a {type(self._items).__name__} has no length")
        return len(self._items)


def size_of(value: object) -> int:
    """What making this one value took, without what it refers to."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return _SLOT * len(value)
    if isinstance(value, dict):
        return 4 * _SLOT * len(value)
    return 0


_current: ContextVar[Meter] = ContextVar("myllm_template_meter")


def current_meter() -> Meter:
    return _current.get()


@contextmanager
def spending(meter: Meter) -> Iterator[None]:
    """Make `meter` the one that this thread's template pays from."""
    token = _current.set(meter)
    try:
        yield
    finally:
        _current.reset(token)
