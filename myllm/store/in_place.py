"""The models of other programs, used where they lie: Ollama's store, LM Studio's folder, the cache of the Hugging Face Hub.

A noun a program: where it keeps its models, how its folders are read, what it calls them. Nothing here writes, and no
weights are opened. Manifests are someone else's word: their sizes are bounded, a digest is a digest before it becomes a
path, and what is broken is left out and told once. Ollama's Go templates are left behind, as the GGUF brings its own in Jinja;
of a model with an adapter or a projector the model alone is used.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from myllm.config import OtherProgram
from myllm.store.model_files import find_model_files
from myllm.store.ollama_parameters import usable_parameters
from myllm.store.registry import Overlay
from myllm.types import Message, Role

log = logging.getLogger(__name__)

MAX_MANIFEST_BYTES = 256 << 10  # an ordinary one has about 1 KiB
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_WEIGHTS = "application/vnd.ollama.image.model"
_PARAMETERS = "application/vnd.ollama.image.params"
_SYSTEM = "application/vnd.ollama.image.system"
_MESSAGES = "application/vnd.ollama.image.messages"
_LIBRARY = ("registry.ollama.ai", "library")  # where a plain name is looked for; it shows as nothing


class FoundModel(Overlay, frozen=True):
    """names: what it may be called, the first that is free; each is its own. path: the first shard's."""

    names: tuple[str, ...]
    path: Path


class Program(Protocol):
    """A program that keeps models on this machine. `title` is its name for people."""

    source: OtherProgram
    title: str

    def models(self) -> Iterator[FoundModel]: ...


class HubCache:
    """What huggingface-hub keeps, and llama.cpp's `-hf` with it: `models--ORG--REPO/snapshots/REVISION/FILE.gguf`."""

    source: OtherProgram = "hub"
    title = "the cache of the Hugging Face Hub"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def here(cls, env: Mapping[str, str], home: Path) -> HubCache:
        given = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
        caches = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else home / ".cache"
        hf_home = Path(env["HF_HOME"]).expanduser() if env.get("HF_HOME") else caches / "huggingface"
        return cls(Path(given).expanduser() if given else hf_home / "hub")

    def models(self) -> Iterator[FoundModel]:
        for repository in _folders(self.folder):
            prefix, _, name = repository.name.partition("--")
            if prefix == "models":
                for file, path in self._files(repository).items():
                    yield FoundModel(_names(name.replace("--", "/"), file), path)

    def _files(self, repository: Path) -> dict[str, Path]:
        """Each file once: from the revision that `main` was last seen at, else from the newest that has it."""
        main = (_read_bounded(repository / "refs" / "main", 256) or b"").decode("utf-8", "replace").strip()
        snapshots = sorted(_folders(repository / "snapshots"), key=lambda folder: (folder.name != main, -_modified(folder)))
        return {name: path for snapshot in reversed(snapshots) for path, name in find_model_files(snapshot)}


class LMStudio:
    """`PUBLISHER/REPO/FILE.gguf` below each of its models folders: the present one and the one of older versions."""

    source: OtherProgram = "lmstudio"
    title = "LM Studio"

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    @classmethod
    def here(cls, home: Path) -> LMStudio:
        moved = (_read_bounded(home / ".lmstudio-home-pointer", 4096) or b"").decode("utf-8", "replace").strip()
        own = Path(moved) if moved.isprintable() and moved.startswith("/") else home / ".lmstudio"
        return cls([own / "models", home / ".cache" / "lm-studio" / "models"])

    def models(self) -> Iterator[FoundModel]:
        for folder in self.folders:
            for path, name in find_model_files(folder):
                parts = name.split("/", 2)
                yield FoundModel(_names("/".join(parts[:2]), parts[2]) if len(parts) == 3 else (name,), path)


class Ollama:
    """Ollama's store: `manifests/HOST/NAMESPACE/NAME/TAG`, JSON that names blobs by digest, and `blobs/sha256-…`."""

    source: OtherProgram = "ollama"
    title = "Ollama"

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self._told: set[Path] = set()

    @classmethod
    def here(cls, env: Mapping[str, str], home: Path) -> Ollama:
        given = env.get("OLLAMA_MODELS", "").strip("\"' ")
        usual = [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]  # a person's, the service's
        return cls([Path(given).expanduser()] if given else usual)

    def models(self) -> Iterator[FoundModel]:
        for folder in self.folders:
            for manifest in _manifests(folder / "manifests"):
                try:
                    found = self._model(folder / "blobs", manifest)
                except _Broken as exc:
                    self._tell_once(manifest, exc)
                    continue
                if found:
                    yield found

    def _model(self, blobs: Path, manifest: Path) -> FoundModel | None:
        """None for a model without weights here, such as one that runs in Ollama's cloud."""
        layers = _decode(manifest, _Manifest).layers
        weights = next((layer for layer in layers if layer.media_type == _WEIGHTS), None)
        if weights is None:
            return None
        path = _blob(blobs, weights.digest)
        size = _size(path)
        if size != weights.size:
            raise _Broken(f"its weights {path.name} have {size:,} bytes, {weights.size:,} are promised; pull it again with Ollama")
        return FoundModel((_ollama_name(manifest),), path, **self._overlay(blobs, manifest, layers))

    def _overlay(self, blobs: Path, manifest: Path, layers: Sequence[_Layer]) -> dict[str, Any]:
        """What was laid over the weights with a Modelfile; a layer that cannot be read is left out and told."""
        blob_of = {layer.media_type: layer.digest for layer in layers}
        overlay: dict[str, Any] = {}
        for media_type, read in _OVERLAYS.items():
            try:
                if media_type in blob_of:
                    overlay |= read(_blob(blobs, blob_of[media_type]))
            except _Broken as exc:
                self._tell_once(manifest, exc)
        return overlay

    def _tell_once(self, manifest: Path, why: _Broken) -> None:
        if manifest not in self._told:
            self._told.add(manifest)
            log.warning("Ollama's model '%s' is left out or incomplete: %s", _ollama_name(manifest), why)


def programs_in_place(names: Sequence[OtherProgram], env: Mapping[str, str] = os.environ) -> list[Program]:
    """The programs that are asked for, in that order, where this user has them; none need be installed."""
    home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    made: dict[OtherProgram, Program] = {"ollama": Ollama.here(env, home), "lmstudio": LMStudio.here(home), "hub": HubCache.here(env, home)}
    return [made[name] for name in dict.fromkeys(names)]


class _Broken(Exception):
    """What is wrong with a manifest or a blob, in a sentence."""


class _Layer(Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: int = 0


class _Manifest(Struct, frozen=True):
    layers: list[_Layer]


class _Turn(Struct, frozen=True):
    role: Role
    content: str = ""


def _names(repo: str, file: str) -> tuple[str, ...]:
    """`bartowski/Llama-3.2-1B-Instruct-Q4_K_M` where the file's name says the repository's again, and else all three parts."""
    owner, _, name = repo.rpartition("/")
    stem = file.rpartition("/")[2]
    full = f"{repo}/{file}"
    said = re.sub(r"[-_.]gguf$", "", name, flags=re.IGNORECASE).casefold()
    return (f"{owner}/{stem}" if owner else stem, full) if stem.casefold().startswith(said) else (full,)


def _ollama_name(manifest: Path) -> str:
    """As `ollama list` shows it, without the tag `latest`: `llama3.2:3b`, `someone/model`, `hf.co/ORG/REPO:Q4_K_M`."""
    host, namespace, name, tag = manifest.parts[-4:]
    place = {_LIBRARY: ""}.get((host, namespace), f"{namespace}/" if host == _LIBRARY[0] else f"{host}/{namespace}/")
    return f"{place}{name}" + (f":{tag}" if tag != "latest" else "")


def _manifests(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.glob("*/*/*/*")) if not any(part.startswith(".") for part in path.parts[-4:])]
    except OSError as exc:
        log.info("Ollama's manifests in %s cannot be listed: %s", folder, exc.strerror)
        return []


def _decode(path: Path, kind: type[Any]) -> Any:
    content = _read_bounded(path, MAX_MANIFEST_BYTES)
    if content is None:
        raise _Broken(f"{path} cannot be read, or is longer than {MAX_MANIFEST_BYTES:,} bytes")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _Broken(f"{path} is not what Ollama writes: {exc}") from exc


def _blob(folder: Path, digest: str) -> Path:
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise _Broken(f"{digest[:100]!r} is no digest")
    return folder / f"sha256-{match[1]}"


def _parameters(blob: Path) -> dict[str, Any]:
    usable = usable_parameters(_decode(blob, dict[str, Any]))
    return {"parameters": usable.sampling, "engine_options": usable.engine, "num_keep": usable.num_keep}


def _system(blob: Path) -> dict[str, Any]:
    content = _read_bounded(blob, MAX_MANIFEST_BYTES)
    if content is None:
        raise _Broken(f"its system prompt {blob} cannot be read, or is longer than {MAX_MANIFEST_BYTES:,} bytes")
    return {"system": content.decode("utf-8", "replace") or None}


def _messages(blob: Path) -> dict[str, Any]:
    return {"messages": tuple(Message(turn.role, turn.content) for turn in _decode(blob, list[_Turn]))}


_OVERLAYS = {_PARAMETERS: _parameters, _SYSTEM: _system, _MESSAGES: _messages}


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name.isprintable())
    except OSError:  # most often: the program is not here
        return []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    """-1 for what is no file."""
    try:
        state = path.stat()
    except OSError:
        return -1
    return state.st_size if stat.S_ISREG(state.st_mode) else -1


def _read_bounded(path: Path, most_bytes: int) -> bytes | None:
    """None for what cannot be read, is no file (opening a FIFO would wait for a writer) or is longer."""
    if not 0 <= _size(path) <= most_bytes:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError:
        return None
    return content if len(content) <= most_bytes else None
