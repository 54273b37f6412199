"""Model names: what one may look like, and which installed one somebody means by what they wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from myllm.errors import InvalidRequest
from myllm.store.metadata import SHARD

MAX_NAME_LENGTH = 200
LATEST = ":latest"
HUB_PREFIXES = ("hf.co/", "huggingface.co/")
OLLAMA_PREFIXES = ("registry.ollama.ai/library/", "registry.ollama.ai/", "library/")
_VALID = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._:/-]*")


def validate_name(name: str) -> str:
    """`name`, if a model may be called so. Raises InvalidRequest."""
    is_path_trick = ".." in name or "//" in name or name.endswith("/")
    if len(name) > MAX_NAME_LENGTH or is_path_trick or not _VALID.fullmatch(name):
        takes = f"letters, digits and . _ - : / in up to {MAX_NAME_LENGTH} places, without '..', a dash in front or a slash at either end"
        raise InvalidRequest(f"{name[:MAX_NAME_LENGTH]!r} cannot be a model's name; it takes {takes}", param="name")
    return name


def without_hub(name: str) -> str:
    """`hf.co/ORG/REPO` is `ORG/REPO`: models of the Hub need not be told apart from others."""
    return next((name[len(prefix) :] for prefix in HUB_PREFIXES if name.startswith(prefix)), name)


def spellings(name: str) -> tuple[str, ...]:
    """What the model that somebody calls `name` may be listed as, the likeliest first.

    As it stands: Ollama keeps `hf.co/` in the names of what it has pulled from there. Then without the registry in front, the
    Hub's or Ollama's own.
    """
    short = next((name[len(prefix) :] for prefix in (*HUB_PREFIXES, *OLLAMA_PREFIXES) if name.startswith(prefix)), "")
    return (name, short) if short else (name,)


def name_of_file(relative: str) -> str:
    """`org/Llama-00001-of-00003.gguf`, a path below a models folder, is the model `org/Llama`."""
    return SHARD.sub("", relative)[: -len(".gguf")]


def find_names(asked: str, names: Iterable[str], aliases: Mapping[str, str] | None = None) -> list[str]:
    """The names that `asked` may mean; several are an ambiguity.

    In this order: the name itself → an alias → with or without `:latest` → the names of which it is the family, as
    `gpt-oss` is of `gpt-oss:20b`; then all of that once more without regard to case.
    """
    known = list(names)
    return _find(asked, known, aliases or {}, str) or _find(asked, known, aliases or {}, str.casefold)


def same_names(asked: str, names: Iterable[str]) -> list[str]:
    """The names that `asked` spells out in full, apart from case and `:latest`; for what must not hit another model."""
    known = list(names)
    return _spelled(asked, _table(known, {}, str)) or _spelled(asked.casefold(), _table(known, {}, str.casefold))


def _find(asked: str, names: list[str], aliases: Mapping[str, str], fold: Callable[[str], str]) -> list[str]:
    table = _table(names, aliases, fold)
    family = fold(asked) + ":"
    return _spelled(fold(asked), table) or sorted(
        {name for spelling, found in table.items() if spelling.startswith(family) for name in found}
    )


def _spelled(asked: str, table: dict[str, set[str]]) -> list[str]:
    spellings = (asked, asked + LATEST, asked.removesuffix(LATEST))
    return next((sorted(table[spelling]) for spelling in spellings if spelling in table), [])


def _table(names: list[str], aliases: Mapping[str, str], fold: Callable[[str], str]) -> dict[str, set[str]]:
    """Spelling → the names that it stands for; a name goes before an alias that is spelled like it."""
    table: dict[str, set[str]] = {}
    for name in names:
        table.setdefault(fold(name), set()).add(name)
    for alias, name in aliases.items():
        table.setdefault(fold(alias), {name})
    return table
