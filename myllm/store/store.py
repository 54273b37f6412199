"""`Store`: which models are installed, under which names, and what becomes of their files.

A model is the bundled one, a `.gguf` file below the home's `models` folder or below one of the model folders, or a
record that `pull`, `import`, `cp` or `create` wrote. Nothing is kept in memory but the headers: another process, or somebody with a file
manager, may add and remove models at any time, and the next look sees it. Files outside the home are never touched. What other
programs keep on this machine is found beside our own.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from myllm.config import OtherProgram
from myllm.errors import Conflict, ModelLoadFailed, ModelNotFound, MyLLMError
from myllm.store.blobs import BlobStore
from myllm.store.capabilities import with_template
from myllm.store.catalog import BUNDLED_NAME, Catalog
from myllm.store.in_place import Program
from myllm.store.metadata import GGUFMetadata, shard_paths
from myllm.store.metadata_cache import MetadataCache
from myllm.store.model_files import find_model_files
from myllm.store.names import MAX_NAME_LENGTH, find_names, name_of_file, same_names, spellings, validate_name
from myllm.store.neighbours import Neighbours
from myllm.store.registry import HubOrigin, Overlay, Record, Registry

log = logging.getLogger(__name__)

MAX_NAMES_SHOWN = 20
CATALOGUED = frozenset({"file", "imported", "pulled", "lmstudio", "hub"})  # where a file keeps its name in the repository

Source = Literal["bundled", "file", "imported", "alias", "pulled"] | OtherProgram


class InstalledModel(Overlay, frozen=True, kw_only=True):
    """A model that can be loaded. `parameters` and the template replace the file's own; `path` is the first shard's."""

    name: str
    path: Path
    metadata: GGUFMetadata
    digest: str
    modified_at: datetime
    source: Source

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The file's, as far as a template that was given does not change them."""
        found = self.metadata.capabilities
        return with_template(found, self.template_source) if self.template_source else found


class _Place(Struct, frozen=True):
    """A name and its file, before the header was read. owner: the other program whose file it is."""

    name: str
    path: Path
    source: Source
    record: Record | None = None
    owner: str | None = None
    overlay: Overlay = Overlay()
    aliases: tuple[str, ...] = ()


class Store:
    """The installed models of one home. Each call looks at the disk."""

    def __init__(
        self,
        home: Path,
        *,
        model_dirs: Sequence[Path] = (),
        programs: Sequence[Program] = (),
        bundled: Path | None = None,
        catalog: Catalog,
    ) -> None:
        self.models_folder = home.resolve() / "models"
        self.model_dirs = [folder.resolve() for folder in model_dirs]
        self.neighbours = Neighbours(programs)
        self.bundled = bundled
        self.catalog = catalog
        self.registry = Registry(home / "records")
        self.blobs = BlobStore(self.models_folder / "blobs", self.registry.written)
        self.cache = MetadataCache(home / "cache" / "metadata.msgpack")
        self._warned: set[Path] = set()

    def list(self) -> list[InstalledModel]:
        """Every model that can be loaded, by name. A file that cannot be read is left out, and logged once."""
        models = []
        for place in self._places().values():
            try:
                models.append(self._read(place))
            except ModelLoadFailed:
                continue
        self.cache.save()
        return sorted(models, key=lambda model: model.name.casefold())

    def resolve(self, name: str) -> InstalledModel:
        """The model that `name` means. Raises ModelNotFound, and ModelLoadFailed if its file is broken."""
        places = self._places(anew=False)
        found = self._find(name, places)
        if len(found) != 1:
            places = self._places()
            found = self._find(name, places)
        if len(found) != 1:
            raise self._not_found(spellings(name)[-1], found)
        model = self._read(places[found[0]])
        self.cache.save()
        return model

    def import_file(self, path: Path, name: str | None = None) -> InstalledModel:
        """Install a file where it lies. Raises ModelLoadFailed for a file that is no model, Conflict for a taken name."""
        file = path.expanduser().absolute()
        file = file.parent.resolve() / file.name
        self.cache.read(file)
        chosen = validate_name(name if name is not None else _name_from(file))
        return self._add(Record(name=chosen, path=str(file), source="imported", owns_file=True, created_at=time.time()))

    def copy(self, source: str, target: str, *, parameters: dict[str, Any] | None = None, template: str | None = None) -> InstalledModel:
        """Another name for the same file; the parameters and the template given replace those of the source.

        Raises Conflict for a name that is taken.
        """
        record = self.derive(self.resolve(source), validate_name(target))
        given = {"parameters": record.parameters | (parameters or {}), "template": template or record.template}
        return self._add(msgspec.structs.replace(record, **given))

    def copy_over(self, source: str, target: str) -> InstalledModel:
        """Another name for the same file, also where the name is taken; for the model's own name nothing is done."""
        model = self.resolve(source)
        if same_names(target, [model.name]):
            return model
        return self.install(self.derive(model, target))

    def derive(self, model: InstalledModel, name: str) -> Record:
        """A record for another name of an installed model, with all that lies over its file. Nothing is written."""
        place = self._places().get(model.name)
        if not place:  # removed by somebody since it was found
            raise self._not_found(model.name, ())
        origin = place.record
        overlay = model.overlay() | {"template": origin.template if origin else None}  # the catalogue's is found again
        return Record(
            name=name,
            path=None if model.path == self.bundled else str(model.path),
            source="alias",
            owns_file=origin.owns_file if origin else False,
            created_at=time.time(),
            **overlay,
        )

    def install(self, record: Record) -> InstalledModel:
        """Write a record, in the place of the model of that name if there is one. Raises what `check_takeover` raises."""
        old = self.check_takeover(record.name, Path(record.path) if record.path else self.bundled)
        if old is not None:
            record = msgspec.structs.replace(record, name=old.name)
        if old is not None and str(old.path) == record.path:
            is_ours = old.record is None or old.record.owns_file  # a plain file has one name, and that is now the record's
            record = msgspec.structs.replace(record, owns_file=is_ours, origin=old.record.origin if old.record else None)
        written = self.registry.replace(record)
        if old is not None and str(old.path) != record.path:
            self._discard(old)
        return self._read(self._place_of(written))  # somebody may have removed it already, and it was made all the same

    def check_takeover(self, name: str, path: Path | None) -> _Place | None:
        """The model whose name it is, if there is one and a model at `path` may have it instead. Raises Conflict.

        The bundled model keeps its name, and so does a file that somebody has put into a models folder.
        """
        places = self._own_places()
        found = same_names(validate_name(name), places)
        if not found:
            return None
        old = places[found[0]]
        if old.source == "bundled":
            raise Conflict(f"'{old.name}' ships with MyLLM and cannot be replaced; choose another name", param="name")
        if old.record is None and old.path != path:
            raise Conflict(f"the name '{name}' is taken by the file {old.path}; choose another or remove that model first", param="name")
        return old

    def record_pull(self, record: Record) -> InstalledModel:
        """Install a pulled model, or renew its record. Raises what `check_name` raises."""
        self.check_name(record.name, Path(record.path or ""))
        self.registry.replace(record)
        return self.resolve(record.name)

    def check_name(self, name: str, path: Path) -> None:
        """May a model that lies at `path` be pulled under this name? Raises Conflict where the name means another model."""
        places = self._own_places()
        for taken in same_names(validate_name(name), places):
            if places[taken].source != "pulled" and places[taken].path != path:
                message = f"the name '{name}' is taken by {places[taken].path}; give that one another name or remove it first"
                raise Conflict(message, param="name")

    def origin(self, name: str) -> HubOrigin | None:
        """Where the model of exactly this name was pulled from; None if it was not."""
        return next((record.origin for record in self.registry.records() if record.name == name), None)

    def pulled_files(self) -> Iterator[tuple[Path, str]]:
        """Every file that was pulled, and its checksum then."""
        for record in self.registry.records():
            if record.origin and record.path:
                shards = shard_paths(Path(record.path))
                yield from zip(shards, record.origin.checksums, strict=False)

    def remove(self, name: str) -> None:
        """Uninstall the model of exactly this name; its file goes too if it is ours and nothing else uses it.

        Raises ModelNotFound, and Conflict for the bundled model, a file in a model folder and a file that others use.
        """
        places = self._places()
        found = next((found for spelling in spellings(name) if (found := same_names(spelling, places))), [])
        if len(found) != 1:
            raise self._not_found(name, found)
        place = places[found[0]]
        if place.record:
            self.registry.remove(place.name)
            self._discard(place)
            return
        self._refuse_removal(place, [other.name for other in places.values() if other.record and other.path == place.path])
        _delete(place.path)

    def _discard(self, place: _Place) -> None:
        """After its record is gone: delete the file if it is ours and no other record uses it."""
        is_used = any(record.path == str(place.path) for record in self.registry.records())
        if not place.record or not place.record.owns_file or is_used or not self._is_ours(place.path):
            return
        if self.blobs.holds(place.path):
            self.blobs.delete(place.path)
        else:
            _delete(place.path)

    def _refuse_removal(self, place: _Place, users: Sequence[str]) -> None:
        if place.source == "bundled":
            raise Conflict(f"'{place.name}' ships with MyLLM and is always installed; it cannot be removed")
        if place.owner:
            raise Conflict(f"'{place.name}' belongs to {place.owner} and is only read here; remove it there")
        if not self._is_ours(place.path):
            raise Conflict(f"'{place.name}' lies in {place.path.parent}, which belongs to you; delete the file there to remove it")
        if users:
            raise Conflict(f"the file of '{place.name}' is also used by {', '.join(users)}; remove that first")

    def _add(self, record: Record) -> InstalledModel:
        places = self._own_places()
        taken = same_names(record.name, places)
        if taken:
            raise Conflict(
                f"the name '{record.name}' is taken by {places[taken[0]].path}; choose another or remove that model first", param="name"
            )
        self.registry.add(record)
        return self.resolve(record.name)

    def _places(self, *, anew: bool = True) -> dict[str, _Place]:
        """Every name and its file, ours and then those of other programs; anew: not as these were a moment ago."""
        places = self._own_places()
        files = [place.path for place in places.values() if not place.record or place.record.owns_file]
        for other in self.neighbours.beside(list(places), files, anew=anew):
            places[other.name] = _Place(
                other.name, other.path, other.source, owner=other.owner, overlay=other.overlay, aliases=other.aliases
            )
        return places

    def _own_places(self) -> dict[str, _Place]:
        """Every name of ours and its file. Of two that share a name the first found wins: bundled, records, home, model folders."""
        records = self.registry.records()
        places: dict[str, _Place] = {}
        if self.bundled:
            places[BUNDLED_NAME] = _Place(BUNDLED_NAME, self.bundled, "bundled")
        for record in records:
            if record.path or self.bundled:
                places.setdefault(record.name, self._place_of(record))
        owned = {place.path for place in places.values() if place.record and place.record.owns_file}
        for folder in (self.models_folder, *self.model_dirs):
            for path, name in find_model_files(folder):
                if path not in owned and places.setdefault(name, _Place(name, path, "file")).path != path:
                    self._warn_of_shadow(path, name)
        return places

    def _place_of(self, record: Record) -> _Place:
        path = Path(record.path) if record.path else self.bundled
        assert path, "without a bundled model no record is of it"
        return _Place(record.name, path, record.source, record, overlay=record)

    def _warn_of_shadow(self, path: Path, name: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            log.warning("model file %s is left out: the name '%s' is taken; rename the file to use it", path, name)

    def _read(self, place: _Place) -> InstalledModel:
        try:
            metadata = self.cache.read(place.path)
            modified_at = place.record.created_at if place.record else place.path.stat().st_mtime
        except (ModelLoadFailed, OSError) as exc:
            raise ModelLoadFailed(f"model '{place.name}' cannot be loaded: {exc}") from exc
        entry = self.catalog.entry_of(place.name, place.path)
        suggested = entry.template if entry and not metadata.chat_template else None
        return InstalledModel(
            name=place.name,
            path=place.path,
            metadata=metadata,
            digest=metadata.digest,
            modified_at=datetime.fromtimestamp(modified_at, UTC),
            source=place.source,
            **place.overlay.overlay() | {"template": place.overlay.template or suggested},
        )

    def _find(self, name: str, places: dict[str, _Place]) -> Sequence[str]:
        aliases = self._aliases(places)
        return next((found for spelling in spellings(name) if (found := find_names(spelling, places, aliases))), [])

    def _aliases(self, places: dict[str, _Place]) -> dict[str, str]:
        """What else the models answer to: the short names of other programs' and what the catalogue calls a file of this name."""
        shared = Counter(alias for place in places.values() for alias in {*place.aliases})
        aliases = {alias: place.name for place in places.values() for alias in place.aliases if shared[alias] == 1}
        by_file = {place.path.name: name for name, place in reversed(places.items()) if place.source in CATALOGUED}
        for entry in self.catalog:
            installed = entry.name if entry.name in places else by_file.get(Path(entry.file).name)
            if installed:
                aliases.update(dict.fromkeys((entry.name, *entry.aliases), installed))
        return aliases

    def _not_found(self, name: str, candidates: Sequence[str]) -> ModelNotFound:
        shown = name[:MAX_NAME_LENGTH]
        if candidates:
            return ModelNotFound(f"model '{shown}' is ambiguous; it may be {', '.join(candidates[:MAX_NAMES_SHOWN])}", param="model")
        if self.catalog.find(name):
            return ModelNotFound(f"model '{shown}' is not installed; fetch it with `myllm pull {shown}`", param="model")
        installed = [model.name for model in self.list()]
        more = f" and {len(installed) - MAX_NAMES_SHOWN} more" if len(installed) > MAX_NAMES_SHOWN else ""
        listed = f"installed: {', '.join(installed[:MAX_NAMES_SHOWN])}{more}" if installed else "none is installed"
        return ModelNotFound(f"model '{shown}' not found; {listed}", param="model")

    def _is_ours(self, path: Path) -> bool:
        return path.parent.resolve().is_relative_to(self.models_folder)


def _name_from(file: Path) -> str:
    """A valid name from a file's name: what a name may not hold becomes a dash."""
    stem = name_of_file(file.name) if file.name.endswith(".gguf") else file.stem
    return re.sub(r"[^A-Za-z0-9._-]|\.\.+", "-", stem).lstrip("-")[:MAX_NAME_LENGTH] or "model"


def _delete(path: Path) -> None:
    for shard in shard_paths(path):
        try:
            shard.unlink(missing_ok=True)
        except OSError as exc:
            raise MyLLMError(f"the model file {shard} cannot be deleted: {exc.strerror}") from exc
