"""Which template a model gets: the one that was asked for, else the GGUF's own, else `plain`.

The packaged templates are files, one a family, named by their stem. A name may come from a client and is looked up among
those files, never joined to a path; a `Path` comes from the operator and is read as it is.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import NamedTuple

from myllm.errors import ConfigInvalid, InvalidRequest

PLAIN = "plain"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_FILE_BYTES = 1_000_000

log = logging.getLogger(__name__)


class ChosenTemplate(NamedTuple):
    """Jinja source and the name that errors call it by."""

    source: str
    name: str


def templates_folder() -> Path:
    """Inside an installed package `myllm/_data/templates`; in a checkout `templates` at its root."""
    package = Path(__file__).parent.parent
    packaged = package / "_data" / "templates"
    return packaged if packaged.is_dir() else package.parent / "templates"


class TemplateLibrary:
    """The templates of one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or templates_folder()

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.jinja") if _NAME.fullmatch(path.stem))

    def get(self, name: str) -> ChosenTemplate:
        """A packaged template by its name. Raises InvalidRequest with the names that there are."""
        if name not in self.names():
            shown = name if _NAME.fullmatch(name) else "that name"
            raise InvalidRequest(f"there is no chat template '{shown}'; there are {', '.join(self.names())}", param="template")
        return ChosenTemplate(_read(self.folder / f"{name}.jinja"), name)

    def from_file(self, path: Path) -> ChosenTemplate:
        """The operator's own template. Raises ConfigInvalid if it cannot be read."""
        return ChosenTemplate(_read(path), path.name)

    def choose(self, override: str | Path | None, gguf_template: str | None) -> ChosenTemplate:
        """The template for one model.

        override: a packaged name (untrusted) or the operator's file. gguf_template: `tokenizer.chat_template`, if the file
        has one; it is named 'gguf'.
        """
        if isinstance(override, Path):
            return self.from_file(override)
        if override is not None:
            return self.get(override)
        if gguf_template and gguf_template.strip():
            return ChosenTemplate(gguf_template, "gguf")
        log.warning("the model brings no chat template; using '%s', which it was not trained on (set one with template = NAME)", PLAIN)
        return self.get(PLAIN)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise ConfigInvalid(f"cannot read the chat template {path}: {exc}; give a readable Jinja file in UTF-8") from exc
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigInvalid(f"the chat template {path} has more than {_MAX_FILE_BYTES:,} bytes; give a Jinja file")
    return text
