"""`MetadataCache`: metadata by (path, size, modification time), kept on disk so that a listing opens no model file.

It is a cache and nothing else: a file of another version, a damaged one or one that cannot be written only costs time.
Files that failed to read are not remembered on disk, for they may be in the middle of being copied.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from myllm.errors import ModelLoadFailed
from myllm.store.atomic import replace_file
from myllm.store.metadata import GGUFMetadata, read_metadata, shard_paths

log = logging.getLogger(__name__)

VERSION = 2  # of GGUFMetadata's meaning: raise it when the same file should be read anew

Fingerprint = tuple[tuple[int, int], ...]  # size and mtime_ns of each shard


class _Entry(Struct, frozen=True, array_like=True):
    fingerprint: Fingerprint
    metadata: GGUFMetadata


class _Stored(Struct, frozen=True, array_like=True):
    version: int
    entries: dict[str, _Entry]


class MetadataCache:
    """Reads each file once. `save()` after a round of `read`s; several processes may share the file, the last one wins."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entries = self._load()
        self._failures: dict[str, tuple[Fingerprint, ModelLoadFailed]] = {}
        self._is_changed = False

    def read(self, path: Path) -> GGUFMetadata:
        """The metadata of a file. Raises ModelLoadFailed, for a known broken file without opening it again."""
        key, fingerprint = os.path.abspath(path), _fingerprint(path)
        entry, failure = self._entries.get(key), self._failures.get(key)
        if entry and entry.fingerprint == fingerprint:
            return entry.metadata
        if failure and failure[0] == fingerprint:
            raise ModelLoadFailed(failure[1].message)
        try:
            metadata = read_metadata(path)
        except ModelLoadFailed as exc:
            log.warning("model file %s is left out: %s", path, exc.message)
            self._failures[key] = (fingerprint, exc)
            raise
        self._entries[key] = _Entry(fingerprint, metadata)
        self._is_changed = True
        return metadata

    def save(self) -> None:
        """Write what was read since the last time, without the files that are gone."""
        if not self._is_changed:
            return
        self._is_changed = False
        known = self._entries.copy()  # other threads read meanwhile
        entries = {path: entry for path, entry in known.items() if os.path.exists(path)}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, msgspec.msgpack.encode(_Stored(VERSION, entries)))
        except OSError as exc:
            log.warning("the cache of model headers %s cannot be written: %s", self.file, exc.strerror)

    def _load(self) -> dict[str, _Entry]:
        try:
            stored = msgspec.msgpack.decode(self.file.read_bytes(), type=_Stored)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}
        return stored.entries if stored.version == VERSION else {}


def _fingerprint(path: Path) -> Fingerprint:
    states = []
    for shard in shard_paths(path):
        try:
            state = os.stat(shard)
            states.append((state.st_size, state.st_mtime_ns))
        except (OSError, ValueError):
            states.append((-1, 0))
    return tuple(states)
