"""What the verbs find on this machine without a server: the settings file, and the store of installed models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from myllm.model_templates import ModelTemplates
    from myllm.store.store import Store


def config_file() -> Path | None:
    """The settings file that is read when no other is named: `config.toml` in the home, if it is there."""
    from myllm.config import home_folder

    file = home_folder() / "config.toml"
    return file if file.is_file() else None


def open_store(log_level: str = "ERROR") -> Store:
    """The models that a server of this home would have. At "WARNING" it tells of files that it leaves out."""
    import logging

    from myllm.config import home_folder, load_settings
    from myllm.store.catalog import Catalog, bundled_model
    from myllm.store.in_place import programs_in_place
    from myllm.store.store import Store

    logging.basicConfig(format="warning: %(message)s", level=log_level)
    settings = load_settings(file=config_file())
    programs = programs_in_place(settings.in_place)
    return Store(home_folder(), model_dirs=settings.model_dirs, programs=programs, bundled=bundled_model(), catalog=Catalog.load())


def open_templates() -> ModelTemplates:
    """Which template each of them has there."""
    from myllm.chat.library import TemplateLibrary
    from myllm.config import load_settings
    from myllm.model_templates import ModelTemplates

    return ModelTemplates(load_settings(file=config_file()), TemplateLibrary())


def complete_model(incomplete: str) -> list[str]:
    """Names for the shell's completion. Whatever is wrong, a person who presses Tab is not told now."""
    import logging

    logging.disable()
    try:
        return [model.name for model in open_store().list() if model.name.startswith(incomplete)]
    except Exception:
        return []
