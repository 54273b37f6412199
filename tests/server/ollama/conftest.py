from __future__ import annotations

import argparse
from collections.abc import Iterator

import make_gguf
import pytest
from endless_model import write_endless_model
from live_server import LiveServer
from ollama_calls import OllamaCalls


@pytest.fixture(scope="session")
def ollama(server: LiveServer) -> OllamaCalls:
    """The server that all tests share; they leave it as they found it."""
    return OllamaCalls(server)


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaCalls]:
    """A server for what loads, unloads and makes models. Beside tiny it has `plain`, which can only go on with a text, `bert`,
    which only embeds, and `endless`."""
    folder = tmp_path_factory.mktemp("models")
    for name, arch in (("plain", "llama"), ("bert", "bert")):
        shape = {"vocab": 2048, "layers": 1, "width": 64, "context": 512, "type": "f32", "seed": 0}
        make_gguf.write_model(argparse.Namespace(out=folder / f"{name}.gguf", arch=arch, **shape))
    write_endless_model(folder)
    live = LiveServer(tmp_path_factory.mktemp("home"), MYLLM_MODEL_DIRS=str(folder))
    yield OllamaCalls(live)
    live.stop()
