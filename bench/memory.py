"""What a load was estimated to take beside what its worker really took, for models of different shape.

Each model is made by bench/make_gguf.py and loaded by a real worker; then 64 streams and a prompt that fills the context
touch every buffer, and the worker's memory is read.

    python bench/memory.py
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C
import make_gguf
from tables import render_table

from myllm.config import EngineOptions
from myllm.memory import estimate, plan_load
from myllm.store.metadata import read_metadata
from myllm.types import SamplingParams
from myllm.worker.handle import Worker

Q4_K_M = 15  # LLAMA_FTYPE_MOSTLY_Q4_K_M
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dense": ({"share": 1, "width": 512, "layers": 8, "context": 8_192}, {}),
    "grouped-query": ({"share": 4, "width": 512, "layers": 8, "context": 8_192}, {}),
    "long context": ({"width": 256, "layers": 4, "context": 32_768}, {}),
    "Q4_K_M": ({"width": 1024, "layers": 12, "context": 8_192, "vocab": 32_000, "type": "f32"}, {}),
    "Q8_0 cache": ({"width": 512, "layers": 8, "context": 8_192}, {"kv_cache_type": "q8_0"}),
}


def make_model(path: Path, shape: dict[str, Any]) -> Path:
    defaults = {"out": path, "arch": "llama", "vocab": 128_256, "type": "q8_0", "seed": 0, "share": 2}
    make_gguf.write_model(argparse.Namespace(**{**defaults, **shape}))
    return path


def quantized(path: Path) -> Path:
    target = path.with_name("q4_k_m.gguf")
    params = C.llama_model_quantize_default_params()
    params.ftype = Q4_K_M
    if C.llama_model_quantize(str(path).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError("llama.cpp could not quantize the model")
    return target


async def measure(path: Path, options: EngineOptions) -> tuple[int, int]:
    """(estimated, measured) bytes."""
    meta = read_metadata(path)
    plan = plan_load(meta, options, has_gpu=False)
    worker = await Worker.start("bench", path, options, plan, queue_size=1000)
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    long = await worker.generate([1] * (plan.context_length - 8), params)
    generations = [await worker.generate([2 + number, 1, 3], params) for number in range(plan.num_slots - 1)]
    for generation in [long, *generations]:
        async for _ in generation:
            pass
    measured = worker.memory_bytes
    await worker.stop()
    return estimate(meta, options, plan).ram, measured


def main() -> None:
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, options) in MODELS.items():
            path = make_model(Path(folder) / f"{len(rows)}.gguf", shape)
            path = quantized(path) if name == "Q4_K_M" else path
            estimated, measured = asyncio.run(measure(path, EngineOptions(**options)))
            sizes = [f"{size / 1e6:.0f}" for size in (path.stat().st_size, estimated, measured)]
            rows.append([name, *sizes, f"{estimated / measured:.2f}"])
    print(render_table(["model", "file MB", "estimated MB", "measured MB", "estimated / measured"], rows))


if __name__ == "__main__":
    main()
