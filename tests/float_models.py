"""Models with weights of full precision, small enough to be quantised in a test: bench/make_gguf.py makes them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from unittest import mock

import gguf
import make_gguf

SHAPE = {"arch": "llama", "vocab": 1024, "layers": 1, "width": 256, "share": 2, "context": 512, "seed": 0}


def write_float_model(path: Path, kind: str = "f16") -> Path:
    """A llama of 1.2 million parameters that says something; its rows have 256 values, as K quants want them."""
    make_gguf.write_model(Namespace(**SHAPE, type=kind, out=path))
    return path


def write_split_model(folder: Path) -> list[Path]:
    """The same in parts, in order."""
    with mock.patch.object(make_gguf, "GGUFWriter", lambda path, arch: gguf.GGUFWriter(path, arch, split_max_tensors=5)):
        write_float_model(folder / "split.gguf")
    return sorted(folder.glob("split-*.gguf"))
