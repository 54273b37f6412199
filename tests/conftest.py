"""What holds for all tests: they see nothing that other programs keep on this machine, not in processes of their own either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _a_home_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    nobody = tmp_path_factory.mktemp("nobody")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(nobody))
        patch.setenv("HF_HOME", str(nobody / "huggingface"))
        patch.setenv("OLLAMA_MODELS", str(nobody / "ollama"))
        theirs = ("OLLAMA_HOST", "OLLAMA_KEEP_ALIVE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_ORIGINS")
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", *theirs):
            patch.delenv(name, raising=False)
        yield
