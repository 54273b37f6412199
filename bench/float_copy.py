"""A copy of a model with all weights in 32 bits, where equal answers are asked for: kernels for quantised weights round by batch size.

llama.cpp writes it, in a process of its own: what it logs is caught there, and nothing of it stays behind here.

    python bench/float_copy.py tiny.gguf tiny-f32.gguf
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path


def write_float_copy(model: Path, copy: Path) -> Path:
    """Returns `copy`. Raises RuntimeError where llama.cpp refuses the model."""
    done = subprocess.run([sys.executable, __file__, str(model), str(copy)], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"llama.cpp cannot convert {model} to 32 bits")
    return copy


def main() -> None:
    import llama_cpp.llama_cpp as C

    params = C.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = C.LLAMA_FTYPE_ALL_F32, True, 1
    sys.exit(C.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))


if __name__ == "__main__":
    main()
