"""What somebody wants from the Hub, and what a repository offers: names become files here. Pure decisions.

A repository is a bag of files. An `Offer` is a model in it, whole: one file, or all parts of a split one; its label is the
quantisation that the file's name ends with, or the name itself where that would not tell two offers apart.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

from msgspec import Struct

from myllm.errors import DownloadFailed, InvalidRequest, ModelNotFound
from myllm.store.hub import RemoteFile, Repository, is_safe_path
from myllm.store.metadata import MAX_SHARDS, SHARD
from myllm.store.names import MAX_NAME_LENGTH, without_hub

PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16")
MAX_OFFERS_SHOWN = 40
_REPOSITORY = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_QUANTIZATION = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|FP?16|FP?32))$", re.IGNORECASE)
_TAKES = "it takes a name of the catalogue, ORG/REPO, ORG/REPO:QUANTISATION or ORG/REPO/FILE.gguf"


class Reference(Struct, frozen=True):
    """A repository, and if given the quantisation or the file in it."""

    repository: str
    quantization: str | None = None
    path: str | None = None


class Offer(Struct, frozen=True):
    """A model in a repository; files: in order, the first shard first."""

    label: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def parse_reference(name: str) -> Reference:
    """Raises InvalidRequest for what can be no model of the Hub; that is every URL too."""
    shown = repr(name[:MAX_NAME_LENGTH])
    if "://" in name:
        raise InvalidRequest(f"{shown} is a URL, and models are pulled by name; {_TAKES}", param="name")
    organisation, _, rest = without_hub(name).partition("/")
    repository, _, path = rest.partition("/")
    repository, colon, quantization = repository.partition(":")
    for part in (organisation, repository):
        if not _REPOSITORY.fullmatch(part) or ".." in part or "--" in part:
            raise InvalidRequest(f"{shown} names no repository of the Hub; {_TAKES}", param="name")
    if path and (colon or not path.endswith(".gguf") or not is_safe_path(path)):
        raise InvalidRequest(f"{shown} names no file of a repository; {_TAKES}", param="name")
    if colon and not re.fullmatch(r"[\w.-]{1,100}", quantization):
        raise InvalidRequest(f"{shown} names no quantisation; {_TAKES}", param="name")
    wanted = None if quantization in ("", "latest") else quantization
    return Reference(f"{organisation}/{repository}", wanted, path or None)


def choose(repository: Repository, reference: Reference) -> Offer:
    """The offer that the reference means. Raises ModelNotFound with what the repository offers."""
    offers = list_offers(repository)
    if reference.path:
        whole = SHARD.sub("", reference.path)
        found = [offer for offer in offers if SHARD.sub("", offer.files[0].path) == whole]
    elif reference.quantization:
        found = _labelled(offers, reference.quantization)
    else:
        found = next((match for label in PREFERRED if (match := _labelled(offers, label))), offers)
    if len(found) != 1:
        raise ModelNotFound(_not_offered(repository, reference, offers), param="name")
    return found[0]


def list_offers(repository: Repository) -> list[Offer]:
    """The models of a repository, smallest first."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(repository.files, key=lambda file: file.path):
        groups.setdefault(SHARD.sub("", file.path), []).append(file)
    labels = Counter(_quantization(path) for path in groups)
    offers = [
        Offer(label if (label := _quantization(path)) and labels[label] == 1 else path[: -len(".gguf")], tuple(files))
        for path, files in groups.items()
    ]
    return sorted(offers, key=lambda offer: offer.size)


def check_whole(repository: Repository, offer: Offer) -> None:
    """Raises DownloadFailed for a split model of which parts are missing."""
    parts = [(int(match[1]), int(match[2])) for file in offer.files if (match := SHARD.search(file.path))] or [(1, 1)]
    count = parts[0][1]
    if count > MAX_SHARDS or parts != [(number, count) for number in range(1, count + 1)]:
        raise DownloadFailed(f"{repository.name} holds {len(offer.files)} of the {count} parts of {offer.label}; it cannot be pulled")


def installed_name(repository: Repository, offer: Offer) -> str:
    """`ORG/REPO:LABEL`, or `ORG/REPO/FILE` where there is no label."""
    is_path = SHARD.sub("", offer.files[0].path)[: -len(".gguf")] == offer.label
    name = f"{repository.name}{'/' if is_path else ':'}{offer.label}"
    return re.sub(r"[^A-Za-z0-9._:/-]|\.\.+", "-", name)[:MAX_NAME_LENGTH].rstrip("/")


def _quantization(path: str) -> str | None:
    """The label in a file's name; what goes along with a model (projectors, importance matrices) has none."""
    stem = PurePosixPath(path).name[: -len(".gguf")]
    match = _QUANTIZATION.search(stem)
    return match[1].upper() if match and not re.search("mmproj|imatrix", stem, re.IGNORECASE) else None


def _labelled(offers: list[Offer], label: str) -> list[Offer]:
    wanted = label.upper()
    exact = [offer for offer in offers if offer.label.upper() == wanted]
    return exact or [offer for offer in offers if offer.label.upper() == f"UD-{wanted}"]


def _not_offered(repository: Repository, reference: Reference, offers: list[Offer]) -> str:
    if not offers:
        return f"{repository.name} holds no GGUF file; look for a repository that does, often with GGUF in its name"
    asked = reference.path or reference.quantization
    what = f"{repository.name} has no '{asked}'" if asked else f"{repository.name} has several models; name one"
    shown = ", ".join(f"{offer.label} ({_size(offer.size)})" for offer in offers[:MAX_OFFERS_SHOWN])
    more = f" and {len(offers) - MAX_OFFERS_SHOWN} more" if len(offers) > MAX_OFFERS_SHOWN else ""
    return f"{what}; it offers: {shown}{more}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
