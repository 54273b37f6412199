"""The types of weights that a model can be quantised to: what they are called, and about how large they make it.

The names are llama.cpp's, and Ollama's with them. The types that want a matrix of importances (IQ2, IQ1) are not among
them, for nobody can send one.
"""

from __future__ import annotations

import math

from myllm.errors import InvalidRequest
from myllm.store.metadata import GGUFMetadata

# Bits that a weight takes, over the whole of an ordinary model: some of its tensors get a better type than the others.
BITS_PER_WEIGHT = {
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.6,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.6,
    "Q5_1": 6.0,
    "Q5_0": 5.6,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.7,
    "Q4_1": 5.1,
    "Q4_0": 4.7,
    "IQ4_NL": 4.7,
    "IQ4_XS": 4.5,
    "Q3_K_L": 4.4,
    "Q3_K_M": 4.0,
    "Q3_K_S": 3.7,
    "Q2_K": 3.4,
}
_SHORT = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}
_SOURCES = ("F32", "F16", "BF16")


def parse_file_type(written: str) -> str:
    """The type's name, in whatever case it was written. Raises InvalidRequest with those that there are."""
    name = written.upper()
    name = _SHORT.get(name, name)
    if name not in BITS_PER_WEIGHT:
        known = ", ".join(BITS_PER_WEIGHT)
        raise InvalidRequest(f"unsupported quantization type {written[:40]} - supported types are {known}", param="quantize")
    return name


def check_source(metadata: GGUFMetadata) -> None:
    """Raises InvalidRequest for a model that has lost precision before: quantising it anew would lose more."""
    if metadata.quantization not in _SOURCES:
        message = f"quantization is only supported for F16 and F32 models; this one is {metadata.quantization}"
        raise InvalidRequest(message, param="quantize")


def expected_bytes(metadata: GGUFMetadata, file_type: str) -> int:
    """About how large the file will be: the weights in their new type, and the rest of the file as it is."""
    rest = max(metadata.size_bytes - metadata.tensor_bytes, 0)
    return rest + math.ceil(metadata.parameter_count * BITS_PER_WEIGHT[file_type] / 8)
