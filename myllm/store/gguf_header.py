"""The header of a GGUF file, read within bounds: its key-value pairs and where its tensors lie, never the weights.

The `gguf` library has a reader, but it builds one numpy view for each string: for a vocabulary of 128k tokens and its
merges that took 8 s on the machine where this was written, and it believes every length that the file claims. Here
arrays of strings are stepped over (0.08 s for the same file), and every count is held against the file's size first.
A file is someone else's word, so whatever is wrong with it ends as ModelLoadFailed with a sentence for its owner.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from msgspec import Struct

from myllm.errors import ModelLoadFailed

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 128 << 20  # the largest vocabularies take about 20 MiB
MAX_KEY_BYTES = 65_535  # the format's own limit
MAX_STRING_BYTES = 8 << 20  # the longest are chat templates and licences
MAX_PAIRS = 65_536
MAX_TENSORS = 65_536  # the largest models have a few thousand
MAX_KEPT_ITEMS = 4_096  # numeric arrays up to this length are kept (one value a layer), longer ones stepped over
MAX_LABELS, MAX_LABEL_LETTERS = 64, 256
MAX_DIMENSIONS = 4
WINDOW_BYTES = 1 << 20

Value = str | int | float | bool | tuple[int | float | bool, ...] | tuple[str, ...]

STRING, ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FORMATS = {type_id: struct.Struct(f"<{letter}") for type_id, letter in _SCALARS.items()}
_U32, _U64 = _FORMATS[4], _FORMATS[10]


class TensorInfo(Struct, frozen=True, array_like=True):
    """One tensor of the file; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return self.num_elements // block * block_bytes


class GGUFHeader(Struct, frozen=True):
    """What the file says before its weights.

    values: scalars, strings and short numeric arrays; where the whole was asked for, all arrays. array_lengths: the items of
    every array, kept or not. labels: short arrays of strings under `general.`, such as its tags.
    data_start: the header's size, padding included. digest: sha256 of the header and the file's size; two files with
    one digest have the same shape, names and vocabulary, but it says nothing about the weights.
    """

    values: dict[str, Value]
    array_lengths: dict[str, int]
    labels: dict[str, tuple[str, ...]]
    tensors: tuple[TensorInfo, ...]
    data_start: int
    file_bytes: int
    digest: str


def read_header(path: Path, *, whole: bool = False) -> GGUFHeader:
    """Read the header of one file; `whole` keeps its long lists, the vocabulary among them. Raises ModelLoadFailed."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening it: opening a FIFO waits for a writer
            raise ModelLoadFailed(f"'{path}' is not a file; give the path of a .gguf file")
        with path.open("rb", buffering=0) as file:
            return _Reader(file, path.name, whole).header()
    except (OSError, ValueError) as exc:  # ValueError: a path with a zero byte
        raise ModelLoadFailed(f"'{path}' cannot be read: {getattr(exc, 'strerror', None) or exc}; check the path") from exc


class _Reader:
    """A cursor over the file. It holds one window of the file, so a header of any size takes little memory."""

    def __init__(self, file: BinaryIO, name: str, whole: bool) -> None:
        self.file = file
        self.name = name
        self.whole = whole
        self.file_bytes = os.fstat(file.fileno()).st_size
        self.position = 0
        self._window = b""
        self._window_start = 0
        self._labels: dict[str, tuple[str, ...]] = {}

    def header(self) -> GGUFHeader:
        num_tensors, num_pairs = self._preamble()
        values: dict[str, Value] = {}
        array_lengths: dict[str, int] = {}
        for _ in range(num_pairs):
            key = self._string(MAX_KEY_BYTES)
            if key in values or key in array_lengths:
                raise self._corrupt(f"the key {key[:80]!r} comes twice")
            self._pair(key, values, array_lengths)
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        data_start = self._data_start(values)
        self._check_tensors(tensors, data_start)
        return GGUFHeader(values, array_lengths, self._labels, tensors, data_start, self.file_bytes, self._digest())

    def _preamble(self) -> tuple[int, int]:
        """Magic and version; returns the number of tensors and of key-value pairs."""
        start = self._take(min(8, self.file_bytes))
        if not start:
            raise ModelLoadFailed(f"'{self.name}' is empty; copy or download it again")
        if start[:4] != MAGIC:
            raise ModelLoadFailed(f"'{self.name}' is not a GGUF file: it starts with {start!r}, not with {MAGIC!r}")
        self.position = len(MAGIC)
        version = self._number(_U32)
        if version not in VERSIONS:
            is_swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            why = "it is big-endian" if is_swapped else f"it has version {version}"
            raise ModelLoadFailed(f"'{self.name}' is a GGUF file of another kind: {why}, and versions 2 and 3 in little-endian are read")
        num_tensors, num_pairs = self._number(_U64), self._number(_U64)
        self._bound("tensors", num_tensors, MAX_TENSORS, least_bytes=24)
        self._bound("key-value pairs", num_pairs, MAX_PAIRS, least_bytes=13)
        return num_tensors, num_pairs

    def _pair(self, key: str, values: dict[str, Value], array_lengths: dict[str, int]) -> None:
        type_id = self._number(_U32)
        if type_id == STRING:
            values[key] = self._string(MAX_STRING_BYTES)
        elif type_id in _FORMATS:
            values[key] = self._scalar(type_id)
        elif type_id == ARRAY:
            item_type, length = self._number(_U32), self._number(_U64)
            array_lengths[key] = length
            kept = self._array(key, item_type, length)
            if kept is not None:
                values[key] = kept
        else:
            raise self._corrupt(f"the key {key[:80]!r} has the unknown type {type_id}")

    def _array(self, key: str, item_type: int, length: int) -> tuple[int | float | bool, ...] | tuple[str, ...] | None:
        """The items of a short numeric array; None for one that was stepped over."""
        if item_type == STRING:
            self._bound(f"strings in {key[:80]!r}", length, MAX_HEADER_BYTES, least_bytes=8)
            if self.whole:
                return tuple(self._string(MAX_STRING_BYTES) for _ in range(length))
            if key.startswith("general.") and length <= MAX_LABELS:
                texts = tuple(self._string(MAX_STRING_BYTES) for _ in range(length))
                self._labels[key] = tuple(text for text in texts if len(text) <= MAX_LABEL_LETTERS)
            else:
                self._skip_strings(length)
            return None
        if item_type not in _FORMATS:  # an array of arrays too: llama.cpp reads none
            raise self._corrupt(f"the array {key[:80]!r} has items of the unknown type {item_type}")
        item_bytes = _FORMATS[item_type].size
        self._bound(f"items in {key[:80]!r}", length, MAX_HEADER_BYTES, least_bytes=item_bytes)
        if length <= MAX_KEPT_ITEMS or self.whole:
            return tuple(self._scalar(item_type) for _ in range(length))
        self._advance(length * item_bytes)
        return None

    def _skip_strings(self, count: int) -> None:
        # The one hot loop: 400,000 rounds for a large vocabulary, so it steps through the window without a call for each.
        unpack = _U64.unpack_from
        while count:
            self._fill(8)
            window, offset = self._window, self.position - self._window_start
            last = len(window) - 8
            while count and offset <= last:
                offset += 8 + unpack(window, offset)[0]
                count -= 1
            self._advance(self._window_start + offset - self.position)

    def _tensor(self) -> TensorInfo:
        name = self._string(MAX_KEY_BYTES)
        num_dimensions = self._number(_U32)
        if num_dimensions > MAX_DIMENSIONS:
            raise self._corrupt(f"the tensor {name[:80]!r} claims {num_dimensions} dimensions, at most {MAX_DIMENSIONS} are possible")
        shape = tuple(self._number(_U64) for _ in range(num_dimensions))
        type_id, offset = self._number(_U32), self._number(_U64)
        try:
            return TensorInfo(name, shape, GGMLQuantizationType(type_id), offset)
        except ValueError:
            raise ModelLoadFailed(f"'{self.name}' cannot be used: its tensor {name[:80]!r} has the unknown type {type_id}") from None

    def _data_start(self, values: dict[str, Value]) -> int:
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > WINDOW_BYTES:
            raise self._corrupt(f"general.alignment is {alignment!r}, not a power of two")
        return -(-self.position // alignment) * alignment

    def _check_tensors(self, tensors: tuple[TensorInfo, ...], data_start: int) -> None:
        """Every tensor must lie inside the file, or the weights were cut off on the way here."""
        end = data_start
        for tensor in tensors:
            block, _ = GGML_QUANT_SIZES[tensor.type]
            if tensor.shape and tensor.shape[0] % block:
                raise self._corrupt(f"rows of the tensor {tensor.name[:80]!r} hold {tensor.shape[0]} items, not a multiple of {block}")
            end = max(end, data_start + tensor.offset + tensor.num_bytes)
        if tensors and end > self.file_bytes:
            raise self._cut_off(f"its header promises tensors up to byte {end:,}")

    def _digest(self) -> str:
        hasher = hashlib.sha256(f"{self.file_bytes}:".encode())
        left, self.position = self.position, 0
        while left:
            piece = self._take(min(WINDOW_BYTES, left))
            hasher.update(piece)
            left -= len(piece)
        return f"sha256-{hasher.hexdigest()}"

    def _string(self, most_bytes: int) -> str:
        length = self._number(_U64)
        if length > most_bytes:
            raise self._corrupt(f"a text at byte {self.position:,} claims {length:,} bytes, at most {most_bytes:,} are possible")
        return self._take(length).decode("utf-8", errors="replace")

    def _scalar(self, type_id: int) -> int | float | bool:
        packed = _FORMATS[type_id]
        number: int | float | bool = packed.unpack(self._take(packed.size))[0]
        return number

    def _number(self, packed: struct.Struct) -> int:
        number: int = packed.unpack(self._take(packed.size))[0]
        return number

    def _take(self, count: int) -> bytes:
        self._fill(count)
        start = self.position - self._window_start
        self._advance(count)
        return self._window[start : start + count]

    def _fill(self, count: int) -> None:
        """Have at least `count` bytes from the cursor on in the window."""
        if 0 <= self.position - self._window_start <= len(self._window) - count:
            return
        self.file.seek(self.position)
        self._window, self._window_start = self.file.read(max(count, WINDOW_BYTES)), self.position
        if len(self._window) < count:
            raise self._cut_off(f"its header goes on beyond byte {self.position + count:,}")

    def _advance(self, count: int) -> None:
        self.position += count
        if self.position > self.file_bytes:
            raise self._cut_off(f"its header goes on beyond byte {self.position:,}")
        if self.position > MAX_HEADER_BYTES:
            raise self._corrupt(f"its header is longer than {MAX_HEADER_BYTES:,} bytes")

    def _bound(self, what: str, count: int, most: int, *, least_bytes: int) -> None:
        if count > most or count * least_bytes > self.file_bytes:
            raise self._corrupt(f"it claims {count:,} {what}, more than it has room for ({self.file_bytes:,} bytes)")

    def _corrupt(self, why: str) -> ModelLoadFailed:
        return ModelLoadFailed(f"'{self.name}' is corrupt: {why}; copy or download it again")

    def _cut_off(self, promise: str) -> ModelLoadFailed:
        return ModelLoadFailed(f"'{self.name}' is cut off: {promise}, the file has {self.file_bytes:,} bytes; copy or download it again")
