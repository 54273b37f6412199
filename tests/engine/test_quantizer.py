"""llama.cpp's own quantiser, as it really is."""

from __future__ import annotations

from pathlib import Path

import llama_cpp.llama_cpp as C
import pytest
from float_models import write_float_model, write_split_model

from myllm.engine.quantizer import quantize
from myllm.errors import ModelLoadFailed
from myllm.store.file_types import BITS_PER_WEIGHT, expected_bytes
from myllm.store.metadata import read_metadata


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_float_model(tmp_path_factory.mktemp("float") / "f16.gguf")


def test_a_model_gets_weights_of_the_type_and_tells_how_far_it_is(source: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    quantize(source, tmp_path / "small.gguf", "Q4_K_M", 1, seen.append)

    before, after = read_metadata(source), read_metadata(tmp_path / "small.gguf")
    assert (before.quantization, after.quantization) == ("F16", "Q4_K_M")
    assert {"Q4_K", "Q6_K", "F32"} == set(after.tensor_types)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(before.tensor_bytes, rel=0.02)


@pytest.mark.parametrize("file_type", BITS_PER_WEIGHT)
def test_every_type_that_is_offered_can_be_made_and_is_about_as_large_as_expected(source: Path, tmp_path: Path, file_type: str) -> None:
    quantize(source, tmp_path / "new.gguf", file_type, 1, lambda num_bytes: None)

    made = read_metadata(tmp_path / "new.gguf")
    assert made.quantization == file_type
    assert made.size_bytes == pytest.approx(expected_bytes(read_metadata(source), file_type), rel=0.15)


def test_the_parts_of_a_split_model_become_one_file(tmp_path: Path) -> None:
    parts = write_split_model(tmp_path)

    quantize(parts[0], tmp_path / "whole.gguf", "Q8_0", 1, lambda num_bytes: None)

    whole = read_metadata(tmp_path / "whole.gguf")
    assert len(parts) > 1 and not whole.is_split
    assert whole.parameter_count == read_metadata(parts[0]).parameter_count


def test_a_file_that_is_no_model_is_refused_with_llama_cpps_reason(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")

    with pytest.raises(ModelLoadFailed, match=r"cannot quantise 'page.gguf': .*magic"):
        quantize(tmp_path / "page.gguf", tmp_path / "new.gguf", "Q8_0", 1, lambda num_bytes: None)


def test_every_type_that_is_offered_is_one_of_llama_cpps() -> None:
    assert all(hasattr(C, f"LLAMA_FTYPE_MOSTLY_{name}") or name == "F32" for name in BITS_PER_WEIGHT)
