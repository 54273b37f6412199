"""Making a model: from an installed one or from uploaded files, with what somebody wants laid over it.

Here everything is checked before any model changes: `draft_model` gives the record that would be installed, and the type
that the weights are to be quantised to first, which needs a process of its own. What a request asks for and cannot have is
refused with the field's name, never left out.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct, field

from myllm.errors import InvalidRequest, ModelLoadFailed, UnsupportedByModel
from myllm.store.file_types import check_source, parse_file_type
from myllm.store.gguf_header import GGUFHeader, read_header
from myllm.store.metadata import MAX_SHARDS, GGUFMetadata, read_metadata
from myllm.store.names import validate_name, without_hub
from myllm.store.ollama_parameters import Parameters, read_parameters
from myllm.store.registry import Record
from myllm.store.store import Store
from myllm.types import Message

MAX_TEXT_BYTES = 1 << 20  # of a system prompt, a template, a licence: records are read at each look at the store
MAX_MESSAGES_BYTES = 4 << 20
# What Go's templates begin an action with and Jinja cannot: `{{ .System }}`, `{{ $role }}`, `{{- range .Messages }}`.
_GO = re.compile(r"\{\{-?\s*(?:[.$]|(?:if|range|with|define|block|template)\s)")
_OTHER_FORMATS = (".safetensors", ".bin", ".pth", ".pt", ".onnx")


class NewModel(Struct, frozen=True, kw_only=True):
    """What a model shall be: `source` is an installed model's name, `files` are names and digests of uploaded blobs.

    What is None or empty is as in the source; parameters go by Ollama's names, and those of the source stay besides.
    """

    name: str
    source: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    license: str | None = None
    quantize: str | None = None


class Draft(Struct, frozen=True, kw_only=True):
    """A model that could be installed. path: its weights; file_type: what they are to be quantised to before.

    `weights` and `texts` are digests (`sha256:…`) of what it is made of; the texts are new with it.
    """

    record: Record
    path: Path
    metadata: GGUFMetadata
    file_type: str | None
    weights: tuple[str, ...]
    texts: tuple[str, ...]


def draft_model(store: Store, new: NewModel, check_template: Callable[[str], None]) -> Draft:
    """Raises what is wrong with the request: InvalidRequest and its kin with `param`, ModelNotFound, Conflict.

    check_template: compiles a Jinja template, and raises if that fails.
    """
    name = validate_name(without_hub(new.name))
    if new.adapters:
        raise UnsupportedByModel("LoRA adapters are not supported; merge the adapter into its model and send that", param="adapters")
    parameters = read_parameters(new.parameters)
    texts = _check_texts(new, check_template)
    record, path, metadata, weights = _from_files(store, name, new) if new.files else _from_model(store, name, new)
    store.check_takeover(name, path)
    laid = parameters.over(Parameters(record.parameters, record.engine_options, record.num_keep))
    overlay: dict[str, Any] = {"parameters": laid.sampling, "engine_options": laid.engine, "num_keep": laid.num_keep}
    overlay |= {"template_source": new.template, "template": None} if new.template else {}
    overlay |= {key: getattr(new, key) for key in ("system", "messages", "license") if getattr(new, key)}
    return Draft(
        record=msgspec.structs.replace(record, **overlay),
        path=path,
        metadata=metadata,
        file_type=_file_type(new, metadata),
        weights=weights,
        texts=texts,
    )


def _from_model(store: Store, name: str, new: NewModel) -> tuple[Record, Path, GGUFMetadata, tuple[str, ...]]:
    if not new.source:
        raise InvalidRequest("neither 'from' or 'files' was specified", param="from")
    model = store.resolve(new.source)
    record = msgspec.structs.replace(store.derive(model, name), parent_model=model.name)
    digest = model.path.name if store.blobs.holds(model.path) and not model.metadata.is_split else model.digest
    return record, model.path, model.metadata, (digest.replace("-", ":"),)


def _from_files(store: Store, name: str, new: NewModel) -> tuple[Record, Path, GGUFMetadata, tuple[str, ...]]:
    if new.source:
        raise InvalidRequest("give either 'from' or 'files': a model has one set of weights", param="files")
    headers = _read_files(store, new.files)
    parts = _in_order(headers, new.files)
    path = store.blobs.path(parts[0]) if len(parts) == 1 else store.blobs.join(parts)
    try:
        metadata = read_metadata(path)
    except ModelLoadFailed as exc:
        raise InvalidRequest(f"'{min(new.files)}' cannot be used: {exc.message}", param="files") from exc
    record = Record(name=name, path=str(path), source="imported", owns_file=True, created_at=time.time())
    return record, path, metadata, tuple(part.replace("-", ":").lower() for part in parts)


def _read_files(store: Store, files: Mapping[str, str]) -> dict[str, GGUFHeader]:
    """The header of each file, by its name. Raises InvalidRequest for what is no uploaded GGUF file."""
    if len(files) > MAX_SHARDS:
        raise InvalidRequest(f"'files' has {len(files):,} entries, at most {MAX_SHARDS:,} are taken", param="files")
    for name in files:
        if not _is_relative(name):
            raise InvalidRequest(f"file path must be relative: {name[:100]!r}", param="files")
        if name.endswith(_OTHER_FORMATS):
            message = f"'{name}' is not in GGUF format; convert the model with llama.cpp's convert_hf_to_gguf.py and send that file"
            raise UnsupportedByModel(message, param="files")
    return {name: _read_file(store, name, digest) for name, digest in files.items()}


def _read_file(store: Store, name: str, digest: str) -> GGUFHeader:
    try:
        is_here = store.blobs.has(digest)
    except InvalidRequest as exc:
        raise InvalidRequest(f"'{name}' in 'files': {exc.message}", param="files") from exc
    if not is_here:
        raise InvalidRequest(f"the blob {digest} of '{name}' is not here; send it first", param="files")
    try:
        header = read_header(store.blobs.path(digest))
    except ModelLoadFailed as exc:
        raise InvalidRequest(f"supplied file was not in GGUF format: '{name}': {exc.message}", param="files") from exc
    kind = header.values.get("general.type")
    if kind == "adapter":
        raise UnsupportedByModel(f"'{name}' is a LoRA adapter; merge it into its model and send that", param="files")
    if kind in ("projector", "mmproj") or header.values.get("general.architecture") == "clip":
        raise UnsupportedByModel(f"'{name}' is a projector for images, which are not supported; leave it out", param="files")
    return header


def _in_order(headers: Mapping[str, GGUFHeader], files: Mapping[str, str]) -> list[str]:
    """The digests of a model's parts, first to last; each file's header says which part it is."""
    numbers = {name: header.values.get("split.no", 0) for name, header in headers.items()}
    counts = {name: header.values.get("split.count") or 1 for name, header in headers.items()}
    ordered = sorted(numbers, key=lambda name: (str(numbers[name]).zfill(5), name))
    if set(counts.values()) != {len(files)} or [numbers[name] for name in ordered] != list(range(len(files))):
        told = ", ".join(f"'{name}' is number {numbers[name]} (from 0) of {counts[name]}" for name in ordered[:8])
        raise InvalidRequest(f"'files' must be one model, whole: {told}", param="files")
    return [files[name] for name in ordered]


def _file_type(new: NewModel, metadata: GGUFMetadata) -> str | None:
    """None where the weights may stay as they are."""
    if not new.quantize:
        return None
    wanted = parse_file_type(new.quantize)
    check_source(metadata)
    return wanted if wanted != metadata.quantization else None


def _check_texts(new: NewModel, check_template: Callable[[str], None]) -> tuple[str, ...]:
    """The digests of the texts that were given, once each is known to be usable."""
    given = {key: value for key in ("template", "system", "license") if (value := getattr(new, key))}
    contents = {key: _encoded(key, text, MAX_TEXT_BYTES) for key, text in given.items()}
    if new.messages:
        contents["messages"] = _encoded("messages", "\n".join(message.content for message in new.messages), MAX_MESSAGES_BYTES)
    if new.template:
        refuse_go_template(new.template)
        check_template(new.template)
    if new.parameters:
        contents["parameters"] = msgspec.json.encode(new.parameters, order="sorted")
    return tuple(f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents.values())


def refuse_go_template(source: str) -> None:
    """Raises InvalidRequest for a template in the language that Ollama's are written in."""
    if _GO.search(source):
        raise InvalidRequest("'template' is a Go template; send Jinja, or none to use the file's own", param="template")


def _encoded(key: str, text: str, most_bytes: int) -> bytes:
    content = text.encode()
    if len(content) > most_bytes:
        raise InvalidRequest(f"'{key}' has {len(content):,} bytes, at most {most_bytes:,} are taken", param=key)
    return content


def _is_relative(name: str) -> bool:
    """As Ollama has it; the name is told in errors and never becomes a path."""
    parts = name.split("/")
    return bool(name) and not {"", ".", ".."} & set(parts) and not re.search(r"[\\:\0]", name) and not PurePosixPath(name).is_absolute()
