"""TokenBuffer: a growing run of token ids (or cell numbers) in one numpy array.

Prompts have thousands of tokens and nothing here may cost a Python step for each of them: comparing, copying and cutting
are single numpy calls, appending one token is amortised constant time.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]


class TokenBuffer:
    """int32 values with a length; `view` is valid until the next append or extend."""

    __slots__ = ("_data", "length")

    def __init__(self, values: SequenceOf[int] | Int32Array = ()) -> None:
        self._data: Int32Array = np.array(values, dtype=np.int32)
        self.length = len(self._data)

    def __len__(self) -> int:
        return self.length

    @property
    def view(self) -> Int32Array:
        return self._data[: self.length]

    def append(self, value: int) -> None:
        self._reserve(1)
        self._data[self.length] = value
        self.length += 1

    def extend(self, values: Int32Array) -> None:
        self._reserve(len(values))
        self._data[self.length : self.length + len(values)] = values
        self.length += len(values)

    def truncate(self, length: int) -> Int32Array:
        """Cut to `length`; returns what was cut off (valid until the next append)."""
        cut = self._data[length : self.length]
        self.length = length
        return cut

    def _reserve(self, count: int) -> None:
        needed = self.length + count
        if needed > len(self._data):
            grown = np.empty(max(needed, 2 * len(self._data), 64), dtype=np.int32)
            grown[: self.length] = self.view
            self._data = grown


def common_prefix(a: Int32Array, b: Int32Array, limit: int) -> int:
    """How many leading values are equal, at most `limit`."""
    n = min(len(a), len(b), limit)
    if n <= 0:
        return 0
    differs = a[:n] != b[:n]
    first = int(differs.argmax())
    return first if differs[first] else n
