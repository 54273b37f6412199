"""The models of other programs, used where they lie: Ollama's store, LM Studio's folder, the cache of the Hugging Face Hub.

A noun a program: where it keeps its models, how its folders are read, what it calls them. Nothing here writes, and no
weights are opened. Manifests are someone else's word: their sizes are bounded, a digest is a digest before it becomes a
path, and what is broken is left out and told once. Ollama's Go templates and system prompts are left behind, as the GGUF
brings its own template; of a model with an adapter or a projector the model alone is used.
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

log = logging.getLogger(__name__)

MAX_MANIFEST_BYTES = 256 << 10  # an ordinary one has about 1 KiB
MAX_STOPS, MAX_STOP_LETTERS = 16, 256

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_WEIGHTS = "application/vnd.ollama.image.model"
_PARAMETERS = "application/vnd.ollama.image.params"
_LIBRARY = ("registry.ollama.ai", "library")  # where a plain name is looked for; it shows as nothing
# Ollama's name of a parameter → the field of SamplingParams, with the range that requests have too.
_SAMPLING: dict[str, tuple[str, type[int] | type[float], float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "top_k": ("top_k", int, 0, 2**31 - 1),
    "top_p": ("top_p", float, 0, 1),
    "min_p": ("min_p", float, 0, 1),
    "typical_p": ("typical_p", float, 0, 1),
    "repeat_penalty": ("repeat_penalty", float, 1e-6, 1e6),
    "repeat_last_n": ("penalty_last_n", int, -1, 2**31 - 1),
    "presence_penalty": ("presence_penalty", float, -2, 2),
    "frequency_penalty": ("frequency_penalty", float, -2, 2),
    "seed": ("seed", int, -(2**63), 2**63 - 1),
    "num_predict": ("max_tokens", int, 1, 2**31 - 1),  # Ollama's -1 and -2 are our default, no bound
}


class FoundModel(Struct, frozen=True):
    """names: what it may be called, the first that is free; each is its own. path: the first shard's."""

    names: tuple[str, ...]
    path: Path
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


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
        return FoundModel((_ollama_name(manifest),), path, self._parameters(blobs, manifest, layers))

    def _parameters(self, blobs: Path, manifest: Path, layers: Sequence[_Layer]) -> dict[str, Any]:
        digest = next((layer.digest for layer in layers if layer.media_type == _PARAMETERS), None)
        try:
            return _sampling(_decode(_blob(blobs, digest), dict[str, Any])) if digest else {}
        except _Broken as exc:
            self._tell_once(manifest, exc)
            return {}

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


def _sampling(written: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's parameters by the names of SamplingParams; what has no counterpart or is out of range is left out."""
    parameters: dict[str, Any] = {}
    for key, (name, kind, least, most) in _SAMPLING.items():
        value = written.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most and kind(value) == value:
            parameters[name] = kind(value)
    stops = written.get("stop")
    listed = [stops] if isinstance(stops, str) else stops if isinstance(stops, list) else []
    texts = [text for text in listed if isinstance(text, str) and 0 < len(text) <= MAX_STOP_LETTERS]
    return parameters | ({"stop": tuple(texts[:MAX_STOPS])} if texts else {})


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
