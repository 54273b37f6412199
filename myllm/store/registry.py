"""`Registry`: the records that `pull`, `import`, `cp` and `create` write, one small file for each name.

A file for each record needs no lock: creating one is atomic and fails if the name is taken, removing one is atomic,
and two processes that write different names never meet. A record that cannot be read is left out and logged.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from myllm.errors import Conflict, MyLLMError
from myllm.store.atomic import create_file, replace_file
from myllm.types import Message

log = logging.getLogger(__name__)


class HubOrigin(Struct, frozen=True, kw_only=True):
    """Where a pulled model came from; its files (paths in the repository) and their checksums, the first shard first."""

    repository: str
    revision: str
    files: tuple[str, ...]
    checksums: tuple[str, ...]


class Overlay(Struct, frozen=True, kw_only=True):
    """What is laid over a model's file; everything may be absent.

    parameters, engine_options: by the names of SamplingParams and of EngineOptions. num_keep: for requests that say nothing of
    it. template: a packaged one's name. template_source: Jinja, by whoever made the model. messages: turns that stand before
    those of every chat. parent_model: what it was made from.
    """

    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    engine_options: dict[str, Any] = msgspec.field(default_factory=dict)
    num_keep: int | None = None
    template: str | None = None
    template_source: str | None = None
    system: str | None = None
    messages: tuple[Message, ...] = ()
    license: str | None = None
    parent_model: str | None = None

    def overlay(self) -> dict[str, Any]:
        """These fields alone, for another that has the same."""
        return {name: getattr(self, name) for name in Overlay.__struct_fields__}


class Record(Overlay, frozen=True, kw_only=True):
    """A name for a file, with what was given along with it.

    path None is the bundled model, which moves with the installation. owns_file: the file is known by records only, so
    it is not listed under its own name, and it may be deleted with its last record if it lies in our folder.
    """

    name: str
    path: str | None
    source: Literal["imported", "alias", "pulled"]
    owns_file: bool
    created_at: float
    origin: HubOrigin | None = None


class Registry:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def records(self) -> list[Record]:
        """Every readable record, by name."""
        found = []
        for file in self.folder.glob("*.json"):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Record))
            except FileNotFoundError:
                continue  # removed by another process since the folder was listed
            except (OSError, msgspec.DecodeError) as exc:
                log.warning("the model record %s is left out: %s", file, exc)
        return sorted(found, key=lambda record: record.name)

    def written(self) -> bytes:
        """All records as they lie there, also those that cannot be understood. Raises OSError where one cannot be read."""
        return b"\n".join(file.read_bytes() for file in self.folder.glob("*.json"))

    def add(self, record: Record) -> None:
        """Raises Conflict if the name has a record, in whatever case."""
        try:
            create_file(self._file(record.name), msgspec.json.format(msgspec.json.encode(record)))
        except FileExistsError:
            raise Conflict(f"the name '{record.name}' is taken; choose another or remove that model first", param="name") from None
        except OSError as exc:
            raise MyLLMError(f"the model '{record.name}' cannot be recorded in {self.folder}: {exc.strerror}") from exc

    def replace(self, record: Record) -> Record:
        """Write a record, whether the name has one or not; returns it as it will be read."""
        encoded = msgspec.json.encode(record)
        try:
            replace_file(self._file(record.name), msgspec.json.format(encoded))
        except OSError as exc:
            raise MyLLMError(f"the model '{record.name}' cannot be recorded in {self.folder}: {exc.strerror}") from exc
        return msgspec.json.decode(encoded, type=Record)

    def remove(self, name: str) -> None:
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as exc:
            raise MyLLMError(f"the record of '{name}' in {self.folder} cannot be removed: {exc.strerror}") from exc

    def _file(self, name: str) -> Path:
        # The readable part is for people; the digest keeps `a/b`, `a:b` and `a-b` apart and names of any length short.
        folded = name.casefold()
        readable = re.sub(r"[^a-z0-9._-]", "-", folded)[:80].lstrip(".")
        return self.folder / f"{readable}-{hashlib.sha256(folded.encode()).hexdigest()[:16]}.json"
