from __future__ import annotations

import argparse
from collections.abc import Iterator

import make_gguf
import pytest
from live_server import LiveServer


@pytest.fixture(scope="module")
def thoughtless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose default model's template knows no thoughts."""
    folder = tmp_path_factory.mktemp("made")
    shape = {"arch": "llama", "vocab": 2048, "layers": 1, "width": 64, "context": 512, "type": "f32", "seed": 0}
    make_gguf.write_model(argparse.Namespace(out=folder / "thoughtless.gguf", **shape))
    live = LiveServer(tmp_path_factory.mktemp("home"), MYLLM_MODEL_DIRS=str(folder), MYLLM_DEFAULT_MODEL="thoughtless")
    yield live
    live.stop()
