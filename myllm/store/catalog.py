"""`Catalog`: the models that `pull` knows by a short name, from `models/catalog.toml`; and where the bundled one lies.

The catalogue is data that ships with the program: it says nothing about what is installed. In a checkout its files lie
in `models/`, in an installed package in `myllm/_data/models/`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from myllm.errors import ConfigInvalid, ModelNotFound
from myllm.store.names import find_names

BUNDLED_NAME = "tiny"
_PACKAGE = Path(__file__).parents[1]
_DATA_FOLDERS = (_PACKAGE / "_data" / "models", _PACKAGE.parent / "models")


class CatalogEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that can be had by name. `repo` is absent for the bundled model, `template` where the file's own is right."""

    name: str
    file: str
    family: str
    context: int
    capabilities: tuple[str, ...]
    license: str
    repo: str | None = None
    template: str | None = None
    aliases: tuple[str, ...] = ()


class Catalog:
    """The entries, in the file's order."""

    def __init__(self, entries: tuple[CatalogEntry, ...] = ()) -> None:
        self.entries = entries
        self._by_name = {entry.name: entry for entry in entries}
        self._by_file = {Path(entry.file).name: entry for entry in entries}
        self.aliases = {alias: entry.name for entry in entries for alias in entry.aliases}

    @classmethod
    def load(cls, path: Path | None = None) -> Catalog:
        """The catalogue in `path`, else the one that ships with the program. Raises ConfigInvalid."""
        file = path or _DATA_FOLDERS[0] / "catalog.toml"
        if path is None and not file.exists():
            file = _DATA_FOLDERS[1] / "catalog.toml"
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8")).get("models", {})
            entries = tuple(msgspec.convert({"name": name, **table}, CatalogEntry) for name, table in tables.items())
        except (OSError, ValueError, AttributeError, TypeError) as exc:
            raise ConfigInvalid(f"the catalogue {file} cannot be used: {exc}") from exc
        _refuse_doubles(entries, file)
        return cls(entries)

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self.entries)

    def find(self, asked: str) -> CatalogEntry | None:
        """The one entry that `asked` means, by the rules for installed names; None if there is none, or several."""
        found = find_names(asked, self._by_name, self.aliases)
        return self._by_name[found[0]] if len(found) == 1 else None

    def entry_of(self, name: str, file: Path) -> CatalogEntry | None:
        """The entry that an installed model came from: the one of its name, else the one of its file's name."""
        return self._by_name.get(name) or self._by_file.get(file.name)


def bundled_model() -> Path:
    """The model that ships with the program. Raises ModelNotFound if the installation lost it."""
    for folder in _DATA_FOLDERS:
        file = folder / "tiny" / "myllm-tiny.Q4_K_M.gguf"
        if file.is_file():
            return file
    raise ModelNotFound(f"the bundled model is missing from {_DATA_FOLDERS[0]}; install myllm again")


def _refuse_doubles(entries: tuple[CatalogEntry, ...], file: Path) -> None:
    names = [name for entry in entries for name in (entry.name, *entry.aliases)]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ConfigInvalid(f"the catalogue {file} uses the name {double!r} twice")
