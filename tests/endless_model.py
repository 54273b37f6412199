"""A model whose answers do not end while a test looks, so that no test hopes to be faster than an answer of tiny's half second.

Its weights are random: it never picks a token that ends a text, and its context is full only after minutes. They have full
precision, so with EXACT settings what it says does not depend on what is computed beside it: a seed repeats it.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import make_gguf

SHAPE = {"arch": "llama", "vocab": 1024, "layers": 2, "width": 256, "share": 4, "context": 200_000, "type": "f32", "seed": 0}

EXACT = {"MYLLM_KV_CACHE_TYPE": "f32", "MYLLM_FLASH_ATTENTION": "off"}


def write_endless_model(folder: Path) -> Path:
    """The file `endless.gguf`, of 6 MB; a server that finds it in its folders has the model `endless`."""
    path = folder / "endless.gguf"
    make_gguf.write_model(Namespace(out=path, **SHAPE))
    return path
