"""How much memory a model will take, and whom to unload for it: pure decisions, the manager logs and acts.

The estimate is made from the file's header alone, before anything is loaded. It errs on the large side.
"""

from __future__ import annotations

from dataclasses import dataclass

from myllm.config import EngineOptions
from myllm.store.metadata import GGUFMetadata

BITS_PER_VALUE = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5, "iq4_nl": 4.5}
PROCESS_BYTES = 100 << 20  # Python, numpy and llama.cpp before any model
FEWEST_CELLS = 16_384  # what a worker makes for a short context that nobody set; see worker.main


@dataclass(frozen=True)
class Tenant:
    """A loaded model, as far as evictions go."""

    name: str
    memory_bytes: int
    last_used: float
    is_idle: bool
    is_pinned: bool


def kv_bytes_per_token(meta: GGUFMetadata, kv_cache_type: str) -> int:
    """Bytes of KV cache that one token takes: sum over layers of n_head_kv · (key_length + value_length) · size.

    Llama-3.2-1B, f16: 16 · 8 · (64 + 64) · 2 = 32 KiB, so a 4,096-token context takes 128 MiB.
    """
    return int(sum(meta.head_count_kv) * (meta.key_length + meta.value_length) * BITS_PER_VALUE[kv_cache_type] / 8)


def estimate(meta: GGUFMetadata, options: EngineOptions) -> int:
    """Bytes that a worker with this model will take: weights, KV cells, compute buffers, the process itself."""
    cells = options.context_size or max(meta.context_length, FEWEST_CELLS)
    compute = options.ubatch_size * (meta.embedding_length * 4 * 12) + (64 << 20)
    return meta.size_bytes + cells * kv_bytes_per_token(meta, options.kv_cache_type) + compute + PROCESS_BYTES


def choose_evictions(tenants: list[Tenant], needed_bytes: int, free_bytes: int) -> list[str] | None:
    """Names to unload, least recently used first, until `needed_bytes` are free; None where that cannot be reached.

    A busy or pinned model is never named.
    """
    chosen: list[str] = []
    for tenant in sorted((t for t in tenants if t.is_idle and not t.is_pinned), key=lambda t: t.last_used):
        if free_bytes >= needed_bytes:
            break
        chosen.append(tenant.name)
        free_bytes += tenant.memory_bytes
    return chosen if free_bytes >= needed_bytes else None
