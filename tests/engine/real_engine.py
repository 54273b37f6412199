"""An Engine on a real llama.cpp context, and prompts as the bundled model takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from myllm.config import EngineOptions
from myllm.engine.engine import Engine
from myllm.engine.llama import LlamaContext, LlamaModel
from myllm.engine.tokens import Int32Array
from myllm.types import Delta, SamplingParams, Span

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"


@contextmanager
def engine_of(
    model: LlamaModel,
    *,
    num_cells: int = 2048,
    num_slots: int = 8,
    num_rows: int = 32,
    batch_size: int = 256,
    kv_cache_type: str = "f32",
) -> Iterator[Engine]:
    options = EngineOptions(kv_cache_type=kv_cache_type, batch_size=batch_size)  # type: ignore[arg-type]
    context = LlamaContext.for_generation(model, options, num_cells=num_cells, num_slots=num_slots, num_rows=num_rows, threads=1)
    try:
        yield Engine(
            model,
            context,
            name="real",
            context_length=context.num_cells,
            num_slots=num_slots,
            can_cut=not model.is_recurrent,
            max_gap_s=0.2,
        )
    finally:
        context.close()


def ask(model: LlamaModel, question: str, *, system: str = "") -> Int32Array:
    """One question in the chat format of the bundled model."""
    turns = [("system", system)] if system else []
    turns.append(("user", question))
    text = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>" for role, content in turns)
    return model.tokenize((Span("<|begin_of_text|>" + text + "<|start_header_id|>assistant<|end_header_id|>\n\n"),))


def run(engine: Engine, *, within: int = 5000) -> list[Delta]:
    deltas: list[Delta] = []
    for _ in range(within):
        if not engine.has_work:
            return deltas
        deltas += engine.step()
        engine.cache.check_integrity()
    raise AssertionError("a livelock")


def texts_of(deltas: list[Delta], count: int) -> list[str]:
    return ["".join(delta.text for delta in deltas if delta.id == id) for id in range(count)]


def run_all(engine: Engine, prompts: list[Int32Array], params: SamplingParams) -> list[str]:
    """All at once."""
    for id, prompt in enumerate(prompts):
        engine.check(prompt, params)
        engine.add(id, prompt, params)
    return texts_of(run(engine), len(prompts))


def run_each(engine: Engine, prompts: list[Int32Array], params: SamplingParams) -> list[str]:
    """One after the other, each from an empty cache."""
    texts = []
    for prompt in prompts:
        engine.cache.clear()
        texts += run_all(engine, [prompt], params)
    return texts
