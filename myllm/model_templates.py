"""`ModelTemplates`: which chat template an installed model gets, and what that one is called.

The settings' section for the model comes first, then what was laid over it when it was made or pulled, then the GGUF's own.
"""

from __future__ import annotations

from pathlib import Path

from myllm.chat.library import ChosenTemplate, TemplateLibrary
from myllm.config import Settings
from myllm.store.store import InstalledModel


class ModelTemplates:
    def __init__(self, settings: Settings, library: TemplateLibrary) -> None:
        self.settings = settings
        self.library = library

    def name(self, installed: InstalledModel) -> str | None:
        """What the model's template is called; None where it has none, or cannot chat."""
        override = self._override(installed)
        if override is not None:
            return override.name if isinstance(override, Path) else override
        if installed.template_source:
            return installed.name
        return "gguf" if installed.metadata.chat_template else None

    def source(self, installed: InstalledModel) -> str | None:
        """The template as it is written; None where there is none. Reads files; raises ConfigInvalid, InvalidRequest."""
        return None if self.name(installed) is None else self.choose(installed, installed.metadata.chat_template).source

    def choose(self, installed: InstalledModel, of_file: str | None) -> ChosenTemplate:
        """The template to chat with, if need be one for any model. of_file: the GGUF's own. Reads files; raises as `source` does."""
        override = self._override(installed)
        if override is None and installed.template_source:
            return ChosenTemplate(installed.template_source, installed.name)
        return self.library.choose(override, of_file)

    def _override(self, installed: InstalledModel) -> str | Path | None:
        """A packaged template's name, or the operator's file: only the settings may name a file."""
        written = self.settings.template(installed.name)
        if written and ("/" in written or written.endswith(".jinja")):
            return Path(written).expanduser()
        return written or installed.template
