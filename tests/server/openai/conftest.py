from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import make_gguf
import pytest
from float_copy import write_float_copy
from live_server import LiveServer
from openai_calls import Calls

TINY = Path(__file__).parents[3] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
SERVICES = {"code": {"prefix": "/code/v1", "models": ["org/*"]}, "vectors": {"prefix": "/some/vectors", "models": ["bert", "EXACT"]}}


@pytest.fixture(scope="session")
def v1(server: LiveServer) -> Calls:
    return Calls(server)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Several models and services: `exact`, tiny in full precision; `org/plain:2b`, which has no tokens to fill in with; `bert`."""
    folder = tmp_path_factory.mktemp("zoo")
    write_float_copy(TINY, folder / "exact.gguf")
    (folder / "org").mkdir()
    for path, arch in (("org/plain:2b.gguf", "llama"), ("bert.gguf", "bert")):
        shape = {"vocab": 2048, "layers": 1, "width": 64, "context": 512, "type": "f32", "seed": 0}
        make_gguf.write_model(argparse.Namespace(out=folder / path, arch=arch, **shape))
    settings = {"MYLLM_MODEL_DIRS": str(folder), "MYLLM_SERVICES": json.dumps(SERVICES), "MYLLM_DEFAULT_MODEL": "exact"}
    exactly = {"MYLLM_KV_CACHE_TYPE": "f32", "MYLLM_FLASH_ATTENTION": "off"}
    live = LiveServer(tmp_path_factory.mktemp("home"), **settings, **exactly)
    yield live
    live.stop()


@pytest.fixture(scope="session")
def exact(zoo: LiveServer) -> Calls:
    """tiny in full precision: nothing rounds by what else is computed beside it, so sampled texts repeat."""
    return Calls(zoo, model="exact")
