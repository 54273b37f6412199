"""Real models, each made or loaded once: the bundled one, a copy of it in single precision, and a small recurrent one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing

import make_gguf
import pytest
from engine.real_engine import TINY
from float_copy import write_float_copy

from myllm.config import EngineOptions
from myllm.engine.llama import LlamaModel


@pytest.fixture(scope="session")
def tiny() -> Iterator[LlamaModel]:
    with closing(LlamaModel(TINY, EngineOptions(), lambda fraction: None)) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_f32(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """llama.cpp's kernels for quantised weights round differently for other batch sizes (logits move by up to 0.3), so
    that near ties fall either way. In single precision they move by 1e-5, and equal texts can be asked for."""
    path = write_float_copy(TINY, tmp_path_factory.mktemp("tiny") / "tiny-f32.gguf")
    with closing(LlamaModel(path, EngineOptions(), lambda fraction: None)) as model:
        yield model


@pytest.fixture(scope="session")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    shape = {"vocab": 2048, "layers": 2, "width": 64, "context": 1024, "type": "f32", "seed": 0}
    make_gguf.write_model(argparse.Namespace(out=path, arch="mamba", **shape))
    with closing(LlamaModel(path, EngineOptions(), lambda fraction: None)) as model:
        yield model
