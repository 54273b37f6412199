"""`Tag`: an installed model as Ollama lists it. The gateway's `/models` and the Ollama dialect's `/api/tags` tell the same.

The name is the one that it is installed under and the digest has its prefix; who shows them otherwise replaces them.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from myllm.sessions import iso_time
from myllm.store.store import InstalledModel


class TagDetails(Struct):
    """parameter_size: a number for people, as Ollama rounds it: `20.8B`, `494.03M`."""

    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    context_length: int
    embedding_length: int
    parent_model: str = ""


class Tag(Struct):
    """size: bytes of the file. modified_at: UTC with milliseconds."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: TagDetails
    capabilities: tuple[str, ...]


def tags_of(installed: Iterable[InstalledModel]) -> list[Tag]:
    """Newest first, as Ollama orders them."""
    return [tag_of(model) for model in sorted(installed, key=lambda model: model.modified_at, reverse=True)]


def tag_of(installed: InstalledModel) -> Tag:
    return Tag(
        name=installed.name,
        model=installed.name,
        modified_at=iso_time(installed.modified_at.timestamp()),
        size=installed.metadata.size_bytes,
        digest=installed.digest,
        details=details_of(installed),
        capabilities=installed.capabilities,
    )


def details_of(installed: InstalledModel) -> TagDetails:
    meta = installed.metadata
    return TagDetails(
        format="gguf",
        family=meta.architecture,
        families=(meta.architecture,),
        parameter_size=parameter_size(meta.parameter_count),
        quantization_level=meta.quantization,
        context_length=meta.context_length,
        embedding_length=meta.embedding_length,
        parent_model=installed.parent_model or "",
    )


def parameter_size(count: int) -> str:
    """Whole numbers without decimals; one for billions, two for millions."""
    for unit, size, decimals in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else decimals}f}{unit}"
    return str(count)
