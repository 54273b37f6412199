"""Real models, each made or loaded once: the bundled one, a copy of it in single precision, and a small recurrent one."""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Iterator
from contextlib import closing

import llama_cpp.llama_cpp as C
import make_gguf
import pytest
from engine.real_engine import TINY

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
    path = tmp_path_factory.mktemp("tiny") / "tiny-f32.gguf"
    params = C.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = 0, True, 1
    assert C.llama_model_quantize(str(TINY).encode(), str(path).encode(), ctypes.byref(params)) == 0
    with closing(LlamaModel(path, EngineOptions(), lambda fraction: None)) as model:
        yield model


@pytest.fixture(scope="session")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    shape = {"vocab": 2048, "layers": 2, "width": 64, "context": 1024, "type": "f32", "seed": 0}
    make_gguf.write_model(argparse.Namespace(out=path, arch="mamba", **shape))
    with closing(LlamaModel(path, EngineOptions(), lambda fraction: None)) as model:
        yield model
