"""Model names as Ollama's clients write and expect them: always with a tag, and in some errors with the registry in front."""

from __future__ import annotations

import json

from myllm.errors import InvalidRequest
from myllm.store.names import LATEST, validate_name, without_hub

REGISTRY = "registry.ollama.ai"


def shown_name(name: str) -> str:
    """`tiny` is listed as `tiny:latest`; what follows the last slash may have a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def full_name(name: str) -> str:
    """`registry.ollama.ai/library/tiny:latest`: how Ollama names a model in whose capabilities something is missing."""
    shown = shown_name(name)
    return f"{REGISTRY}/{shown if '/' in shown else f'library/{shown}'}"


def is_valid(name: str) -> bool:
    """May a model be called so?"""
    try:
        validate_name(without_hub(name))
    except InvalidRequest:
        return False
    return True


def quoted(name: str) -> str:
    """In double quotes, as Go's %q prints it."""
    return json.dumps(name, ensure_ascii=False)
