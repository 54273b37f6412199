"""How much memory a model will take, what to load it with, and whom to unload for it: pure decisions.

Everything is told from the file's header, before anything is loaded; the manager acts on it. What the formulas say is
held against what workers really took in bench/memory.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from myllm.config import EngineOptions
from myllm.store.metadata import GGUFMetadata
from myllm.types import LoadPlan

BITS_PER_VALUE = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5, "iq4_nl": 4.5}
MAX_SLOTS = 256
DEFAULT_SLOTS = 64
DEFAULT_SLOTS_RECURRENT = 8  # every slot of a recurrent model costs its whole state, used or not
FEWEST_CELLS = 16_384  # a model with a short context still serves many streams, unless context_size says otherwise
SMALLEST_CONTEXT = 2_048  # what a context that nobody named may shrink to
UNKNOWN_CONTEXT = 2_048  # of a file that does not tell
PROCESS_BYTES = 50 << 20  # Python, numpy and llama.cpp before any model
BYTES_PER_TOKEN_OF_VOCABULARY = 270  # texts, merges and look-up tables


@dataclass(frozen=True)
class Footprint:
    """Bytes in main memory, and on the GPUs together."""

    ram: int
    gpu: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.ram + other.ram, self.gpu + other.gpu)

    def __sub__(self, other: Footprint) -> Footprint:
        return Footprint(self.ram - other.ram, self.gpu - other.gpu)

    def fits_in(self, free: Footprint) -> bool:
        return self.ram <= free.ram and self.gpu <= free.gpu


@dataclass(frozen=True)
class Tenant:
    """A loaded model, as far as evictions go."""

    name: str
    memory: Footprint
    last_used: float
    is_idle: bool
    is_pinned: bool


def plan_load(meta: GGUFMetadata, options: EngineOptions, *, has_gpu: bool) -> LoadPlan:
    """What the options ask for, with every 0 and -1 in them replaced by what the model and the machine suggest."""
    is_recurrent = recurrent_bytes_per_slot(meta) > 0
    slots = min(options.parallel or (DEFAULT_SLOTS_RECURRENT if is_recurrent else DEFAULT_SLOTS), MAX_SLOTS)
    context = options.context_size or meta.context_length or UNKNOWN_CONTEXT
    cells = context if options.context_size else max(context, min(FEWEST_CELLS, context * slots))
    all_layers = meta.block_count + 1  # the output layer counts as one
    layers = min(options.gpu_layers, all_layers) if options.gpu_layers >= 0 else all_layers
    return LoadPlan(context_length=context, num_cells=cells, num_slots=slots, gpu_layers=layers if has_gpu else 0)


def smaller_plans(plan: LoadPlan, options: EngineOptions) -> Iterator[LoadPlan]:
    """What to try when a plan does not fit, best first: fewer GPU layers, then a smaller context. Nothing that was named."""
    if options.gpu_layers < 0:
        for layers in range(plan.gpu_layers - 1, -1, -1):
            plan = msgspec.structs.replace(plan, gpu_layers=layers)
            yield plan
    while not options.context_size and plan.num_cells > SMALLEST_CONTEXT:
        cells = max(plan.num_cells // 2, SMALLEST_CONTEXT)
        plan = msgspec.structs.replace(plan, num_cells=cells, context_length=min(plan.context_length, cells))
        yield plan


def estimate(meta: GGUFMetadata, options: EngineOptions, plan: LoadPlan) -> Footprint:
    """Bytes that a worker with this model and plan will take: weights, KV cells, compute and output buffers, itself.

    Layers on a GPU take their weights and their cells along, and the compute buffer.
    """
    share = plan.gpu_layers / (meta.block_count + 1)
    weights = meta.tensor_bytes
    cells = plan.num_cells * kv_bytes_per_token(meta, options.kv_cache_type) + plan.num_slots * recurrent_bytes_per_slot(meta)
    compute = compute_bytes(meta, options, plan)
    outputs = plan.num_rows * meta.vocab_size * 4
    process = PROCESS_BYTES + meta.vocab_size * BYTES_PER_TOKEN_OF_VOCABULARY
    if meta.is_embedding_model:
        cells = outputs = 0
    on_gpu = int((weights + cells) * share) + (compute if share else 0)
    return Footprint(ram=weights + cells + compute + outputs + process - on_gpu, gpu=on_gpu)


def kv_bytes_per_token(meta: GGUFMetadata, kv_cache_type: str) -> int:
    """Bytes of KV cache that one token takes: sum over layers of n_head_kv · (key_length + value_length) · size.

    Llama-3.2-1B, f16: 16 · 8 · (64 + 64) · 2 = 32 KiB, so a 4,096-token context takes 128 MiB.
    """
    return int(sum(meta.head_count_kv) * (meta.key_length + meta.value_length) * BITS_PER_VALUE[kv_cache_type] / 8)


def recurrent_bytes_per_slot(meta: GGUFMetadata) -> int:
    """The state that a recurrent or hybrid model keeps for a sequence, however long: convolution and state, in f32."""
    number = _Numbers(meta)
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    convolution = max(number("ssm.conv_kernel") - 1, 0) * (inner + 2 * number("ssm.group_count") * state)
    rwkv = (2 + number("wkv.head_size")) * meta.embedding_length if number("wkv.head_size") else 0
    layers = sum(heads == 0 for heads in meta.head_count_kv) or meta.block_count
    return layers * 4 * (inner * state + convolution + rwkv)


def compute_bytes(meta: GGUFMetadata, options: EngineOptions, plan: LoadPlan) -> int:
    """The largest of what a step needs at once: activations and attention of a full chunk, or everybody's logits.

    Without flash attention the scores of every head stand side by side, so it is worth its while.
    """
    number = _Numbers(meta)
    rows = min(options.ubatch_size, options.batch_size, plan.num_cells)
    forward = number("feed_forward_length") or number("expert_feed_forward_length") * max(number("expert_used_count"), 1)
    activations = rows * 4 * 3 * (forward + meta.embedding_length)
    has_flash = options.flash_attention != "off"
    attention = plan.num_cells * rows * (2 if has_flash else 4 + 4 * meta.head_count) if sum(meta.head_count_kv) else 0
    return max(activations + attention, min(plan.num_rows, rows) * meta.vocab_size * 4)


def choose_evictions(tenants: list[Tenant], needed: Footprint, free: Footprint) -> list[str] | None:
    """Names to unload, least recently used first, until `needed` is free; None where that cannot be reached.

    A busy or pinned model is never named.
    """
    chosen: list[str] = []
    for tenant in sorted((t for t in tenants if t.is_idle and not t.is_pinned), key=lambda t: t.last_used):
        if needed.fits_in(free):
            break
        chosen.append(tenant.name)
        free += tenant.memory
    return chosen if needed.fits_in(free) else None


class _Numbers:
    """The architecture's own numbers; 0 for what the file does not say."""

    def __init__(self, meta: GGUFMetadata) -> None:
        self.meta = meta

    def __call__(self, key: str) -> int:
        value = self.meta.values.get(f"{self.meta.architecture}.{key}")
        return value if isinstance(value, int) else 0
