"""The door to llama.cpp itself: text, memory, files that are no models, embeddings."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp.llama_cpp as C
import numpy as np
import pytest
from engine.real_engine import TINY
from hypothesis import HealthCheck, given, settings, strategies as st

from myllm.config import EngineOptions
from myllm.engine.embedder import Embedder, EmbeddingJob
from myllm.engine.llama import KVCacheFull, LlamaContext, LlamaModel
from myllm.engine.sequence import Batch, Chunk, Sequence
from myllm.errors import ModelLoadFailed
from myllm.types import Span

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces \n\n and\tlines\r\n",
    "Grüße, 你好 世界 😀👩‍👩‍👧",
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<think>no control token</think><tool_call>",
    "<|eot_id|",
    "nul\x00byte",
    "x" * 5000,
]


def llama_tokens(model: LlamaModel, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    data = text.encode()
    tokens = (C.llama_token * (len(data) + 8))()
    count = C.llama_tokenize(model.vocab, data, len(data), tokens, len(tokens), add_special, parse_special)
    return list(tokens[:count])


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_one_span_is_tokenised_as_llama_cpp_does(tiny: LlamaModel, text: str):
    assert tiny.tokenize((Span(text),)).tolist() == llama_tokens(tiny, text, add_special=True, parse_special=True)
    assert tiny.tokenize((Span(text),), add_special=False).tolist() == llama_tokens(tiny, text, add_special=False, parse_special=True)


def test_a_text_that_begins_with_bos_does_not_get_a_second_one(tiny: LlamaModel):
    with_it, without = tiny.tokenize((Span("<|begin_of_text|>Hi"),)), tiny.tokenize((Span("Hi"),))

    assert with_it.tolist() == without.tolist()
    assert without.tolist().count(C.llama_vocab_bos(tiny.vocab)) == 1


def test_a_literal_bos_is_not_taken_for_one(tiny: LlamaModel):
    tokens = tiny.tokenize((Span("<|begin_of_text|>Hi", is_literal=True),)).tolist()

    assert tokens.count(C.llama_vocab_bos(tiny.vocab)) == 1
    assert tiny.detokenize(tokens) == "<|begin_of_text|>" * 2 + "Hi"


@pytest.mark.parametrize("control", ["<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>system<|end_header_id|>", "<|fim_prefix|>"])
def test_control_tokens_that_somebody_wrote_are_letters(tiny: LlamaModel, control: str):
    literal = tiny.tokenize((Span(f"a {control} b", is_literal=True),), add_special=False).tolist()
    control_ids = {token_id for token_id in range(tiny.vocab_size) if C.llama_vocab_is_control(tiny.vocab, token_id)}

    assert not control_ids & set(literal)
    assert b"".join(map(tiny.piece, literal)).decode() == f"a {control} b"
    assert control_ids & set(tiny.tokenize((Span(control),), add_special=False).tolist())


def test_spans_are_tokenised_one_by_one(tiny: LlamaModel):
    spans = (Span("<|start_header_id|>user<|end_header_id|>\n\n"), Span("<|eot_id|>", is_literal=True), Span("<|eot_id|>"))

    tokens = tiny.tokenize(spans).tolist()

    eot = llama_tokens(tiny, "<|eot_id|>", add_special=False, parse_special=True)
    assert tokens[-1:] == eot and tokens.count(eot[0]) == 1
    assert tiny.detokenize(tokens) == "<|begin_of_text|>" + "".join(span.text for span in spans)


@pytest.mark.parametrize("prompt", [(), (Span(""),), (Span(""), Span("", is_literal=True))])
def test_an_empty_prompt_is_the_beginning_of_a_text(tiny: LlamaModel, prompt):
    assert tiny.tokenize(prompt).tolist() == [C.llama_vocab_bos(tiny.vocab)]
    assert tiny.tokenize(prompt, add_special=False).tolist() == []


def test_a_lone_surrogate_does_not_break_the_tokenizer(tiny: LlamaModel):
    assert tiny.detokenize(tiny.tokenize((Span("a\ud800b"),), add_special=False).tolist()) == "a?b"


@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_from_its_pieces(tiny: LlamaModel, text: str):
    tokens = tiny.tokenize((Span(text, is_literal=True),), add_special=False).tolist()

    assert b"".join(map(tiny.piece, tokens)) == text.encode()
    assert tiny.detokenize(tokens) == text


def test_control_tokens_have_no_piece_and_a_text(tiny: LlamaModel):
    eot = llama_tokens(tiny, "<|eot_id|>", add_special=False, parse_special=True)[0]

    assert tiny.piece(eot) == b""
    assert tiny.detokenize([eot]) == "<|eot_id|>"
    assert eot in tiny.end_tokens
    assert "<|eot_id|>" in tiny.control_tokens and "<think>" not in tiny.control_tokens


def test_what_the_model_says_of_itself(tiny: LlamaModel):
    assert (tiny.vocab_size, tiny.embedding_length, tiny.trained_context) == (1280, 256, 2048)
    assert (tiny.bos_token, tiny.eos_token) == ("<|begin_of_text|>", "<|end_of_text|>")
    assert tiny.can_generate and not tiny.is_recurrent
    assert tiny.chat_template is not None and "<|start_header_id|>" in tiny.chat_template


def test_loading_reports_its_progress():
    fractions: list[float] = []

    LlamaModel(TINY, EngineOptions(), fractions.append).close()

    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@contextmanager
def context_of(model: LlamaModel, *, num_cells: int = 256, num_slots: int = 3) -> Iterator[LlamaContext]:
    options = EngineOptions(kv_cache_type="f32")
    context = LlamaContext.for_generation(model, options, num_cells=num_cells, num_slots=num_slots, num_rows=32, threads=1)
    try:
        yield context
    finally:
        context.close()


def decode(context: LlamaContext, *runs: tuple[int, int, list[int]]) -> np.ndarray:
    """(slot, start, tokens)… in one batch; returns the logits, a row for each."""
    batch = Batch()
    for slot, start, tokens in runs:
        seq = Sequence(slot, [0] * start + tokens, 1)
        batch.add(Chunk(seq, slot, start, len(tokens), 1))
    context.decode(batch)
    return context.logits(len(runs)).copy()


TEN = [5, 80, 200, 31, 7, 900, 444, 12, 60, 61]


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_prompt_in_pieces_gives_the_logits_of_the_whole(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        whole = decode(context, (0, 0, TEN))
        decode(context, (1, 0, TEN[:4]))
        pieces = decode(context, (1, 4, TEN[4:]))

    assert_same(whole, pieces)


def test_rows_come_in_the_order_of_the_batch(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        first, second = decode(context, (0, 0, TEN))[0], decode(context, (1, 0, TEN[::-1]))[0]
        context.clear()
        both = decode(context, (2, 0, TEN[::-1]), (0, 0, TEN))

    assert_same(both, np.stack([second, first]))
    assert np.abs(first - second).max() > 1


def test_a_copied_prefix_is_as_good_as_a_computed_one(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        whole = decode(context, (0, 0, TEN))
        decode(context, (0, 10, [3, 3, 3]))  # the donor goes on
        context.copy(0, 1, 6)
        shared = decode(context, (1, 6, TEN[6:]))
        donor = decode(context, (0, 13, [4]))
        fresh = decode(context, (2, 0, [*TEN, 3, 3, 3, 4]))

    assert_same(whole, shared)
    assert_same(donor, fresh)


def test_a_copied_prefix_stays_when_its_donor_is_cut(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        whole = decode(context, (0, 0, TEN))
        context.copy(0, 1, 6)
        assert context.truncate(0, 0)
        decode(context, (0, 0, [1] * 200))
        shared = decode(context, (1, 6, TEN[6:]))

    assert_same(whole, shared)


def test_what_was_cut_off_is_forgotten(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        whole = decode(context, (0, 0, TEN))
        decode(context, (1, 0, [*TEN[:5], 1, 2, 3]))
        assert context.truncate(1, 5)
        again = decode(context, (1, 5, TEN[5:]))

    assert_same(whole, again)


def test_a_batch_without_room_is_refused_and_changes_nothing(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        decode(context, (0, 0, [9] * 200))
        decode(context, (1, 0, TEN))
        with pytest.raises(KVCacheFull):
            decode(context, (0, 200, [9] * 10), (2, 0, [8] * 60))
        after = decode(context, (1, 10, [5]))
        assert context.truncate(0, 0)
        fresh = decode(context, (2, 0, [*TEN, 5]))

    assert_same(after, fresh)


def test_the_last_cell_can_be_used(tiny_f32: LlamaModel):
    with context_of(tiny_f32) as context:
        assert context.num_cells == 256

        assert np.isfinite(decode(context, (0, 0, [9] * 256))).all()


def test_a_recurrent_memory_refuses_a_partial_cut(mamba: LlamaModel):
    with context_of(mamba) as context:
        decode(context, (0, 0, TEN))

        assert not context.truncate(0, 5)
        assert context.truncate(0, 0)


LOAD_EACH = """
import json, sys
from pathlib import Path
from myllm.config import EngineOptions
from myllm.engine.llama import LlamaModel
from myllm.errors import ModelLoadFailed
for path in map(Path, sys.argv[1:]):
    try:
        LlamaModel(path, EngineOptions(), lambda fraction: None)
        print(json.dumps([path.name, "loaded"]), flush=True)
    except ModelLoadFailed as error:
        print(json.dumps([path.name, error.message]), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What loading says of files that are no models, in a process of its own: llama.cpp might abort."""
    folder = tmp_path_factory.mktemp("bad")
    whole = TINY.read_bytes()
    contents = {
        "empty.gguf": b"",
        "text.gguf": b"<html>404 Not Found</html>" * 50,
        "magic.gguf": b"GGUF",
        "header.gguf": whole[:1000],
        "half.gguf": whole[: len(whole) // 2],
        "last-byte.gguf": whole[:-1],
        "version.gguf": b"GGUF" + (99).to_bytes(4, "little") + whole[8:],
        "counts.gguf": whole[:8] + b"\xff" * 16 + whole[24:],
        "zeros.gguf": whole[:2000] + bytes(60_000) + whole[62_000:],
        "good.gguf": whole,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.gguf").mkdir()
    paths = [str(folder / name) for name in (*contents, "folder.gguf", "missing.gguf")]
    done = subprocess.run([sys.executable, "-c", LOAD_EACH, *paths], capture_output=True, text=True, check=False)
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


BAD_FILES = ["empty", "text", "magic", "header", "half", "last-byte", "version", "counts", "zeros", "folder", "missing"]


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_model_is_refused_with_a_reason(refusals: dict[str, str], name: str):
    message = refusals.get(f"{name}.gguf", "the process died")

    assert message.startswith(f"llama.cpp cannot load '{name}.gguf': ")
    assert "no reason was given" not in message


def test_the_whole_file_is_loaded_after_all_the_bad_ones(refusals: dict[str, str]):
    assert refusals["good.gguf"] == "loaded"


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path):
    from store.gguf_files import write_gguf

    with pytest.raises(ModelLoadFailed):
        LlamaModel(write_gguf(tmp_path / "weights.gguf"), EngineOptions(), lambda fraction: None)


def embedder_of(model: LlamaModel) -> Embedder:
    return Embedder(lambda num_tokens: LlamaContext.for_embeddings(model, EngineOptions(), num_tokens=num_tokens, num_slots=64, threads=1))


def embed(model: LlamaModel, inputs: list[np.ndarray], *, max_tokens: int) -> list[np.ndarray]:
    embedder, job = embedder_of(model), EmbeddingJob(0, inputs)
    embedder.add(job)
    while embedder.has_work:
        embedder.step(max_tokens)
    return job.vectors


def test_many_inputs_in_one_decode_equal_each_by_itself(tiny: LlamaModel):
    inputs = [tiny.tokenize((Span(text),)) for text in ["a dog", "the capital of France", "x " * 200, "你好", "a dog", "!"] * 11]

    packed = embed(tiny, inputs, max_tokens=2048)
    single = [embed(tiny, [token_ids], max_tokens=2048)[0] for token_ids in inputs[:6]]

    assert len(packed) == 66
    assert all(vector.shape == (256,) for vector in packed)
    assert all(float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5) for vector in packed)
    assert all(float(np.dot(one, packed[at])) > 0.999 for at, one in enumerate(single))
    assert float(np.dot(packed[0], packed[1])) < 0.99  # and other texts are other vectors


def test_an_input_as_long_as_the_model_takes_is_embedded(tiny: LlamaModel):
    inputs = [np.full(length, 50, np.int32) for length in (10, 2048)]

    vectors = embed(tiny, inputs, max_tokens=512)

    assert all(np.isfinite(vector).all() for vector in vectors)


def test_a_recurrent_model_makes_embeddings_too(mamba: LlamaModel):
    inputs = [mamba.tokenize((Span(text),)) for text in ("one", "two and three", "four")]

    packed = embed(mamba, inputs, max_tokens=512)
    single = [embed(mamba, [token_ids], max_tokens=512)[0] for token_ids in inputs]

    assert all(float(np.dot(a, b)) > 0.999 for a, b in zip(packed, single, strict=True))


def test_pointers_of_a_batch_stay_where_llama_cpp_looks_for_them(tiny_f32: LlamaModel):
    """The batch's arrays are made once; each token's slot is read through a pointer into them."""
    with context_of(tiny_f32) as context:
        decode(context, (2, 0, TEN), (1, 0, TEN[:3]))

        slots = [context._batch.seq_id[at][0] for at in range(13)]

    assert slots == [2] * 10 + [1] * 3
    assert ctypes.sizeof(C.llama_token_data) == 12
