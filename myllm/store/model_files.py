"""The `.gguf` files below a folder, whoever owns it: which of them are models, and what they are called there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from myllm.store.metadata import SHARD
from myllm.store.names import name_of_file

log = logging.getLogger(__name__)

MAX_DEPTH = 4  # folders below a models folder; a link that leads back up ends here


def find_model_files(folder: Path, prefix: str = "", depth: int = 0) -> Iterator[tuple[Path, str]]:
    """The first shards of the models below a folder, in order, and the names that they go by; projectors are no models."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as exc:
        log.warning("model folder %s is left out: %s", folder, exc.strerror)
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.isprintable():  # lone surrogates could not be sent in an answer
            continue
        if _is_folder(entry):
            if depth < MAX_DEPTH:
                yield from find_model_files(folder / entry.name, f"{prefix}{entry.name}/", depth + 1)
        elif entry.name.endswith(".gguf") and _is_first_shard(entry.name) and "mmproj" not in entry.name.lower():
            yield folder / entry.name, name_of_file(prefix + entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a place that we may not see
        return False


def _is_first_shard(file_name: str) -> bool:
    match = SHARD.search(file_name)
    return match is None or int(match[1]) == 1
