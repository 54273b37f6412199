from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from store.gguf_files import CHAT_TEMPLATE, write_gguf

from myllm.errors import ModelLoadFailed
from myllm.store.capabilities import PoolingType
from myllm.store.catalog import bundled_model
from myllm.store.gguf_header import read_header
from myllm.store.metadata import read_metadata

TINY_BYTES = 3_096_960


def test_the_bundled_models_metadata_is_what_its_readme_says() -> None:
    metadata = read_metadata(bundled_model())

    assert (metadata.architecture, metadata.name, metadata.quantization) == ("llama", "myllm-tiny", "Q4_K_M")
    assert (metadata.context_length, metadata.embedding_length, metadata.block_count) == (2048, 256, 6)
    assert (metadata.head_count, metadata.head_count_kv, metadata.key_length) == (8, (4,) * 6, 32)
    assert (metadata.vocab_size, metadata.tokenizer_model, metadata.license) == (1280, "gpt2", "mit")
    assert (metadata.bos_token_id, metadata.eos_token_id, metadata.eot_token_id) == (1267, 1268, 1271)
    assert metadata.sampling_defaults == {"temperature": 0.2, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    assert metadata.capabilities == ("completion", "chat", "tools", "thinking", "insert", "embeddings")
    assert (metadata.is_split, metadata.is_embedding_model, metadata.size_bytes) == (False, False, TINY_BYTES)
    assert round(metadata.parameter_count / 1e6, 2) == 5.05


def test_the_tensors_are_counted_by_type_the_largest_share_first() -> None:
    reader = gguf.GGUFReader(bundled_model())
    expected = {
        kind.name: (len(group), sum(int(tensor.n_bytes) for tensor in group))
        for kind in {tensor.tensor_type for tensor in reader.tensors}
        for group in [[tensor for tensor in reader.tensors if tensor.tensor_type == kind]]
    }

    types = read_metadata(bundled_model()).tensor_types

    assert {name: (share.count, share.num_bytes) for name, share in types.items()} == expected
    assert list(types) == ["Q4_K", "Q6_K", "F32"]


@pytest.mark.parametrize(
    ("architecture", "keys", "sees"),
    [
        ("gemma3", {"general__tags": ["image-text-to-text", "chat"]}, True),
        ("gemma3", {"general__tags": ["text-generation"]}, False),
        ("gemma3", {"general__tags": "image-text-to-text"}, False),  # a text where a list belongs
        ("qwen2vl", {}, True),
        ("gemma3", {"gemma3__vision__block_count": 27}, True),
        ("llama", {"general__tags": ["x" * 1000, "vision"] + ["y"] * 62}, True),
        ("llama", {"general__tags": ["vision"] * 65}, False),
        ("bert", {"general__tags": ["vision"]}, False),
    ],
)
def test_a_model_made_to_be_given_images_is_told_by_its_header(tmp_path: Path, architecture: str, keys: dict, sees: bool) -> None:
    path = write_gguf(tmp_path / "m.gguf", architecture=architecture, **keys)

    assert ("vision" in read_metadata(path).capabilities) == sees


def test_the_reader_agrees_with_the_formats_own_library_on_every_value_and_tensor() -> None:
    reader = gguf.GGUFReader(bundled_model())

    metadata = read_metadata(bundled_model())

    scalars = {k: f.contents() for k, f in reader.fields.items() if f.types[0] != gguf.GGUFValueType.ARRAY and not k.startswith("GGUF.")}
    assert metadata.chat_template == scalars.pop("tokenizer.chat_template")
    assert metadata.values == scalars
    assert metadata.parameter_count == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert metadata.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)


def test_a_whole_header_has_its_long_lists_too() -> None:
    short, whole = read_header(bundled_model()), read_header(bundled_model(), whole=True)

    tokens = whole.values["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple) and len(tokens) == short.array_lengths["tokenizer.ggml.tokens"] == 1280
    assert tokens[1271] == "<|eot_id|>" and "tokenizer.ggml.tokens" not in short.values
    assert (whole.digest, whole.tensors) == (short.digest, short.tensors)


def test_a_vocabulary_of_128k_tokens_is_read_in_a_tenth_of_a_second(tmp_path: Path) -> None:
    """The gguf library's own reader takes seconds here. The bound is loose: the machine may be busy."""
    path = write_gguf(tmp_path / "big.gguf", tokenizer__ggml__tokens=[f"token-{number}" for number in range(128_256)])

    best = min(_seconds_to_read(path) for _ in range(5))

    assert read_metadata(path).vocab_size == 128_256
    assert best < 0.1


def _seconds_to_read(path: Path) -> float:
    started = time.process_time()
    read_metadata(path)
    return time.process_time() - started


def test_the_quantization_is_the_file_types_name_else_the_most_frequent_tensor_type(tmp_path: Path) -> None:
    told = write_gguf(tmp_path / "told.gguf", general__file_type=15)
    untold = write_gguf(tmp_path / "untold.gguf")
    unknown = write_gguf(tmp_path / "unknown.gguf", general__file_type=999)

    assert [read_metadata(path).quantization for path in (told, untold, unknown)] == ["Q4_K_M", "F16", "F16"]


def test_a_number_of_heads_for_each_layer_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "hybrid.gguf"
    writer = gguf.GGUFWriter(path, "hybrid")
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    writer.add_head_count([0, 8, 8])
    writer.add_head_count_kv([0, 2, 4])
    writer.add_tensor("t", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    metadata = read_metadata(path)

    assert (metadata.head_count, metadata.head_count_kv, metadata.key_length) == (8, (0, 2, 4), 8)


def test_sampling_defaults_out_of_range_are_left_out(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", general__sampling__temp=float("nan"), general__sampling__top_p=1.5, general__sampling__min_p=0.1)

    assert read_metadata(path).sampling_defaults == {"min_p": 0.1}


def test_a_key_of_the_wrong_type_counts_as_absent(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", general__license=7, tokenizer__chat_template=["x"], tokenizer__ggml__bos_token_id="one")

    metadata = read_metadata(path)

    assert (metadata.license, metadata.chat_template, metadata.bos_token_id) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "architecture", "keys", "capabilities"),
    [
        ("base", "llama", {}, {"completion", "embeddings"}),
        ("Some-7B-Instruct", "llama", {}, {"completion", "chat", "embeddings"}),
        ("a", "llama", {"tokenizer__chat_template": CHAT_TEMPLATE}, {"completion", "chat", "embeddings"}),
        ("a", "llama", {"tokenizer__chat_template": "{% if tools %}"}, {"completion", "chat", "tools", "embeddings"}),
        ("a", "qwen3", {"tokenizer__chat_template": "{% if enable_thinking %}"}, {"completion", "chat", "thinking", "embeddings"}),
        ("a", "gpt-oss", {"tokenizer__chat_template": "{{ reasoning_effort }}"}, {"completion", "chat", "thinking", "embeddings"}),
        (
            "a",
            "llama",
            {f"tokenizer__ggml__fim_{part}_token_id": 1 for part in ("pre", "suf", "mid")},
            {"completion", "insert", "embeddings"},
        ),
        ("a", "nomic-bert", {}, {"embeddings"}),
        ("a", "qwen3", {"qwen3__pooling_type": int(PoolingType.LAST)}, {"embeddings"}),
        ("a", "qwen3", {"qwen3__pooling_type": int(PoolingType.NONE)}, {"completion", "embeddings"}),
        ("a", "bert", {"bert__pooling_type": int(PoolingType.RANK)}, {"rerank"}),
    ],
)
def test_capabilities_are_judged_from_the_header(tmp_path: Path, name: str, architecture: str, keys: dict, capabilities: set[str]) -> None:
    path = write_gguf(tmp_path / f"{name}.gguf", architecture=architecture, **keys)

    metadata = read_metadata(path)

    assert set(metadata.capabilities) == capabilities
    assert metadata.is_embedding_model == ("completion" not in capabilities)


def test_two_files_have_one_digest_only_if_their_headers_and_sizes_are_equal(tmp_path: Path) -> None:
    first, same, other, longer = (
        write_gguf(tmp_path / "a.gguf", general__name="a"),
        write_gguf(tmp_path / "b.gguf", general__name="a"),
        write_gguf(tmp_path / "c.gguf", general__name="c"),
        write_gguf(tmp_path / "d.gguf", general__name="a", rows=8),
    )

    digests = [read_metadata(path).digest for path in (first, same, other, longer)]

    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digests[0].startswith("sha256-")


def test_a_split_model_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    first = _shard(tmp_path, 1)
    second = _shard(tmp_path, 2)

    metadata = read_metadata(first)

    assert metadata.is_split
    assert metadata.parameter_count == 2 * (4 * 32 + 32)
    assert metadata.size_bytes == first.stat().st_size + second.stat().st_size


def test_a_split_model_with_a_missing_part_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"'m-00002-of-00002\.gguf'"):
        read_metadata(_shard(tmp_path, 1))


def test_a_later_part_and_a_renamed_part_are_no_models(tmp_path: Path) -> None:
    renamed = _shard(tmp_path, 1).rename(tmp_path / "renamed.gguf")

    for path in (_shard(tmp_path, 2), renamed):
        with pytest.raises(ModelLoadFailed, match="one of 2 parts"):
            read_metadata(path)


def _shard(folder: Path, number: int) -> Path:
    return write_gguf(folder / f"m-{number:05}-of-00002.gguf", split__no=number - 1, split__count=2)


@pytest.mark.parametrize(
    ("architecture", "keys"), [("clip", {}), ("llama", {"general__type": "adapter"}), ("llama", {"general__type": "mmproj"})]
)
def test_a_projector_or_an_adapter_is_no_model(tmp_path: Path, architecture: str, keys: dict) -> None:
    with pytest.raises(ModelLoadFailed, match="not a language model"):
        read_metadata(write_gguf(tmp_path / "a.gguf", architecture=architecture, **keys))


def test_a_file_of_another_kind_says_how_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04 a zip file")

    with pytest.raises(ModelLoadFailed, match=r"'x.gguf' is not a GGUF file: it starts with b'PK"):
        read_metadata(path)


def test_a_cut_off_file_says_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(bundled_model().read_bytes()[:-1000])

    with pytest.raises(ModelLoadFailed, match=f"'cut.gguf' is cut off: .*{TINY_BYTES:,}, the file has {TINY_BYTES - 1000:,} bytes"):
        read_metadata(path)


def test_every_cut_of_a_header_is_one_clear_error(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"

    for length in range(len(whole) - 128):  # the last tensor's own bytes
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadFailed):
            read_metadata(path)


def test_folders_pipes_empty_and_missing_files_are_errors_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")

    for name, words in {
        "": "not a file",
        "pipe.gguf": "not a file",
        "empty.gguf": "is empty",
        "no.gguf": "No such file",
        "loop.gguf": "link",
    }.items():
        with pytest.raises(ModelLoadFailed, match=words):
            read_metadata(tmp_path / name)
    for hostile in (Path("/dev/zero"), Path("a\0b"), Path("x" * 10_000)):
        with pytest.raises(ModelLoadFailed):
            read_metadata(hostile)


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _file(*pairs: bytes, version: int = 3, num_tensors: int = 0, num_pairs: int | None = None, rest: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, num_tensors, len(pairs) if num_pairs is None else num_pairs) + b"".join(pairs) + rest


HUGE = 2**63
ARCHITECTURE = _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"llama")


def _tensor(*shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return _text(b"t") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    "content",
    [
        _file(version=1),
        _file(version=4),
        struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),
        _file(num_pairs=HUGE),
        _file(num_tensors=HUGE),
        _file(struct.pack("<Q", HUGE) + b"key"),
        _file(_text(b"k") + struct.pack("<IQ", 8, HUGE)),
        _file(_text(b"k") + struct.pack("<IIQ", 9, 8, HUGE)),
        _file(_text(b"k") + struct.pack("<IIQ", 9, 4, HUGE)),
        _file(_text(b"k") + struct.pack("<IIQ", 9, 9, 1) * 1000),
        _file(_text(b"k") + struct.pack("<IIQQ", 9, 8, 1, HUGE)),
        _file(_text(b"k") + struct.pack("<I", 99)),
        _file(ARCHITECTURE, ARCHITECTURE),
        _file(ARCHITECTURE),
        _file(ARCHITECTURE, num_tensors=1, rest=_tensor(HUGE)),
        _file(ARCHITECTURE, num_tensors=1, rest=_tensor(HUGE, HUGE, HUGE, HUGE)),
        _file(ARCHITECTURE, num_tensors=1, rest=_tensor(1, offset=HUGE)),
        _file(ARCHITECTURE, num_tensors=1, rest=_tensor(33, kind=2) + bytes(200)),
        _file(ARCHITECTURE, num_tensors=1, rest=_tensor(1, kind=12345) + bytes(200)),
        _file(ARCHITECTURE, num_tensors=1, rest=_text(b"t") + struct.pack("<I", 2**31)),
        _file(ARCHITECTURE, _text(b"general.alignment") + struct.pack("<II", 4, 0), num_tensors=1, rest=_tensor(1) + bytes(200)),
        _file(ARCHITECTURE, _text(b"general.alignment") + struct.pack("<II", 4, 3), num_tensors=1, rest=_tensor(1) + bytes(200)),
    ],
)
def test_a_hostile_header_is_one_error_in_no_time(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    started = time.process_time()

    with pytest.raises(ModelLoadFailed, match=r"'hostile.gguf'"):
        read_metadata(path)

    assert time.process_time() - started < 1


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = {"tokenizer__ggml__tokens": ["a", "bb", "ccc"], "tokenizer__chat_template": CHAT_TEMPLATE, "general__sampling__temp": 0.5}
    return write_gguf(tmp_path_factory.mktemp("fuzz") / "seed.gguf", **keys)


Mutation = tuple[float, bytes, int]  # where (a share of the file), what, how many bytes it replaces


@settings(max_examples=400, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mutations=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12), st.integers(0, 12)), min_size=1, max_size=4),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_mutated_file_is_metadata_or_one_error_and_never_slow(seed_file: Path, mutations: list[Mutation], cut: float) -> None:
    content = bytearray(seed_file.read_bytes())
    for where, what, replaced in mutations:
        start = int(where * len(content))
        content[start : start + replaced] = what
    path = seed_file.with_name("mutated.gguf")
    path.write_bytes(content[: int(cut * len(content))])

    try:
        metadata = read_metadata(path)
    except ModelLoadFailed as exc:
        assert exc.message
    else:
        assert metadata.parameter_count >= 0
