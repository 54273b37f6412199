"""A model whose answers do not end while a test looks, so that no test hopes to be faster than an answer of tiny's half second.

Its weights are random: it never picks a token that ends a text, and its context is full only after minutes.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import make_gguf

SHAPE = {"arch": "llama", "vocab": 1024, "layers": 2, "width": 256, "share": 4, "context": 200_000, "type": "q8_0", "seed": 0}


def write_endless_model(folder: Path) -> Path:
    """The file `endless.gguf`, of 1.8 MB; a server that finds it in its folders has the model `endless`."""
    path = folder / "endless.gguf"
    make_gguf.write_model(Namespace(out=path, **SHAPE))
    return path
