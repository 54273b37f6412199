"""`GGUFMetadata`: what this program wants to know of a model before it is loaded, taken from the file's header.

The header's bounds are kept in `gguf_header.py`; here its keys get their meaning. A key of the wrong type counts as
absent, because a file is someone else's word. The weights are never read, so this takes milliseconds for any model.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from gguf.constants import LlamaFileType
from msgspec import Struct

from myllm.errors import ModelLoadFailed
from myllm.store.capabilities import IMAGE_TAGS, SEEING, judge_capabilities
from myllm.store.gguf_header import GGUFHeader, TensorInfo, Value, read_header

SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")
MAX_SHARDS = 1_000
MAX_INFO_BYTES = 1_024  # longer texts (templates, licences) stay out of `values`
MAX_LAYERS = 4_096

# How the file names its sampling defaults → the field of SamplingParams, with the range that requests have too.
_SAMPLING: dict[str, tuple[str, float, float]] = {
    "general.sampling.temp": ("temperature", 0, 2),
    "general.sampling.top_k": ("top_k", 0, 2**31 - 1),
    "general.sampling.top_p": ("top_p", 0, 1),
    "general.sampling.min_p": ("min_p", 0, 1),
    "general.sampling.penalty_repeat": ("repeat_penalty", 0, 1e6),
    "general.sampling.penalty_last_n": ("penalty_last_n", -1, 2**31 - 1),
}


class TensorShare(Struct, frozen=True):
    """What the tensors of one type make up of a model."""

    count: int
    num_bytes: int


class GGUFMetadata(Struct, frozen=True, kw_only=True):
    """One model's header, of all its shards together; None is what the file does not say.

    head_count_kv has one number a layer (0 in a layer without attention). key_length and value_length are one head's.
    tensor_types: by ggml's name of the type (`Q4_K`), the largest share first.
    values: the file's scalars and short texts under their own keys, for those who show them; never arrays.
    digest: a cheap identity from header and size, see `GGUFHeader`; it does not prove the weights.
    """

    architecture: str
    name: str | None
    parameter_count: int
    quantization: str
    context_length: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: tuple[int, ...]
    key_length: int
    value_length: int
    vocab_size: int
    sliding_window: int | None
    chat_template: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    eot_token_id: int | None
    sampling_defaults: dict[str, Any]
    pooling_type: int | None
    license: str | None
    tokenizer_model: str | None
    is_split: bool
    capabilities: tuple[str, ...]
    tensor_types: dict[str, TensorShare]
    tensor_bytes: int
    size_bytes: int
    digest: str
    values: dict[str, Any]

    @property
    def is_embedding_model(self) -> bool:
        """Made for embeddings, as opposed to a generative model that can embed too."""
        return "completion" not in self.capabilities


def read_metadata(path: Path) -> GGUFMetadata:
    """The metadata of the model in `path`, the first shard of a split one. Raises ModelLoadFailed, whatever the file is."""
    header = read_header(path)
    keys = _Keys(header)
    architecture = keys.text("general.architecture")
    if not architecture or not header.tensors:
        missing = "weights" if architecture else "general.architecture"
        raise ModelLoadFailed(f"'{path.name}' is not a language model: it holds no {missing}")
    if keys.text("general.type") not in (None, "model") or architecture == "clip":
        kind = keys.text("general.type") or "projector"
        raise ModelLoadFailed(f"'{path.name}' is not a language model: it holds a {kind} that goes with one")
    return _metadata(path, keys, architecture, [header, *_other_shards(path, keys)])


def shard_paths(path: Path) -> list[Path]:
    """Every file of the model whose first shard is `path`, in order; just `path` for a model in one file."""
    match = SHARD.search(path.name)
    if not match:
        return [path]
    last = min(int(match[2]), MAX_SHARDS)
    return [path, *(path.with_name(SHARD.sub(f"-{number:05}-of-{match[2]}", path.name)) for number in range(2, last + 1))]


class _Keys:
    """Typed look-ups in a header: what has another type than asked for counts as absent."""

    def __init__(self, header: GGUFHeader) -> None:
        self.values = header.values
        self.array_lengths = header.array_lengths
        self._labels = header.labels

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def labels(self, key: str) -> tuple[str, ...]:
        return self._labels.get(key, ())

    def count(self, key: str) -> int | None:
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None

    def counts(self, key: str, length: int) -> tuple[int, ...]:
        """One number a layer, written as one for all or as an array; empty if it is neither."""
        value = self.values.get(key)
        if isinstance(value, tuple):
            return tuple(item for item in value if isinstance(item, int) and 0 <= item < 2**31)[:length]
        single = self.count(key)
        return (single,) * length if single is not None else ()


def _metadata(path: Path, keys: _Keys, architecture: str, headers: list[GGUFHeader]) -> GGUFMetadata:
    tensors = [tensor for header in headers for tensor in header.tensors]
    embedding_length = keys.count(f"{architecture}.embedding_length") or 0
    block_count = min(keys.count(f"{architecture}.block_count") or 0, MAX_LAYERS)
    heads = keys.counts(f"{architecture}.attention.head_count", block_count)
    head_count = max(heads, default=0)
    head_length = embedding_length // head_count if head_count else 0
    template = keys.text("tokenizer.chat_template")
    pooling_type = keys.count(f"{architecture}.pooling_type")
    return GGUFMetadata(
        architecture=architecture,
        name=keys.text("general.name"),
        parameter_count=sum(tensor.num_elements for tensor in tensors),
        quantization=_quantization(keys, Counter(tensor.type.name for tensor in tensors)),
        context_length=keys.count(f"{architecture}.context_length") or 0,
        embedding_length=embedding_length,
        block_count=block_count,
        head_count=head_count,
        head_count_kv=keys.counts(f"{architecture}.attention.head_count_kv", block_count) or heads,
        key_length=keys.count(f"{architecture}.attention.key_length") or head_length,
        value_length=keys.count(f"{architecture}.attention.value_length") or head_length,
        vocab_size=keys.array_lengths.get("tokenizer.ggml.tokens", 0),
        sliding_window=keys.count(f"{architecture}.attention.sliding_window") or None,
        chat_template=template,
        bos_token_id=keys.count("tokenizer.ggml.bos_token_id"),
        eos_token_id=keys.count("tokenizer.ggml.eos_token_id"),
        eot_token_id=keys.count("tokenizer.ggml.eot_token_id"),
        sampling_defaults=_sampling_defaults(keys),
        pooling_type=pooling_type,
        license=keys.text("general.license"),
        tokenizer_model=keys.text("tokenizer.ggml.model"),
        is_split=len(headers) > 1,
        capabilities=judge_capabilities(
            architecture=architecture,
            pooling_type=pooling_type,
            template=template,
            title=f"{keys.text('general.name') or ''} {keys.text('general.finetune') or ''} {path.stem}",
            has_fim_tokens=_has_fim_tokens(keys),
            sees_images=_sees_images(keys, architecture),
        ),
        tensor_types=_tensor_types(tensors),
        tensor_bytes=sum(tensor.num_bytes for tensor in tensors),
        size_bytes=sum(header.file_bytes for header in headers),
        digest=headers[0].digest,
        values={key: value for key, value in keys.values.items() if _is_worth_showing(value)},
    )


def _other_shards(path: Path, keys: _Keys) -> list[GGUFHeader]:
    count = keys.count("split.count") or 1
    if count == 1:
        return []
    paths = shard_paths(path)
    if len(paths) != count or keys.count("split.no") != 0:
        raise ModelLoadFailed(
            f"'{path.name}' is one of {count} parts; keep the names that end in -00001-of-{count:05}.gguf and so on, and use the first"
        )
    missing = [shard.name for shard in paths if not shard.is_file()]
    if missing:
        raise ModelLoadFailed(
            f"'{path.name}' is the first of {count} parts, and {len(missing)} are missing beside it, first '{missing[0]}'"
        )
    return [read_header(shard) for shard in paths[1:]]


def _quantization(keys: _Keys, types: Counter[str]) -> str:
    """`Q4_K_M` from general.file_type; where that is absent or a guess, the type that most tensors have."""
    try:
        file_type = LlamaFileType(keys.count("general.file_type") or 0) if "general.file_type" in keys.values else LlamaFileType.GUESSED
    except ValueError:
        file_type = LlamaFileType.GUESSED
    if file_type is LlamaFileType.GUESSED:
        # Norms and biases stay F32 in every model, so F32 is the answer only where there is nothing else.
        quantized = {name: count for name, count in types.items() if name != "F32"}
        return max(quantized or types, key=lambda name: types[name])
    return file_type.name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _sampling_defaults(keys: _Keys) -> dict[str, Any]:
    """The file's sampling defaults by the names of SamplingParams; one out of range is left out."""
    defaults: dict[str, Any] = {}
    for key, (name, least, most) in _SAMPLING.items():
        value = keys.values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            # The file holds 32-bit floats: seven digits turn 0.20000000298 back into 0.2.
            defaults[name] = float(f"{value:.7g}") if isinstance(value, float) else value
    return defaults


def _has_fim_tokens(keys: _Keys) -> bool:
    new, old = ("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle")
    return any(all(keys.count(f"tokenizer.ggml.{part}_token_id") is not None for part in parts) for parts in (new, old))


def _sees_images(keys: _Keys, architecture: str) -> bool:
    """Whether the file says so: in its tags, in the keys of a vision part, or by an architecture that only such models have."""
    is_tagged = bool(IMAGE_TAGS & set(keys.labels("general.tags")))
    return is_tagged or architecture in SEEING or f"{architecture}.vision.block_count" in keys.values


def _tensor_types(tensors: list[TensorInfo]) -> dict[str, TensorShare]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.type.name] += 1
        sizes[tensor.type.name] += tensor.num_bytes
    return {name: TensorShare(counts[name], num_bytes) for name, num_bytes in sizes.most_common()}


def _is_worth_showing(value: Value) -> bool:
    if isinstance(value, tuple):
        return False
    if isinstance(value, str):
        return len(value) <= MAX_INFO_BYTES
    return math.isfinite(value)
