"""The models with random weights: llama.cpp loads them, their tokenizer loses nothing, and they never stop by themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest

MAKE_GGUF = Path(__file__).resolve().parents[2] / "bench" / "make_gguf.py"
TEXT = "Hello, wörld! the quick  brown fox 12345 😀 你好\n\n\tthe end"


def make(folder: Path, *options: str, name: str = "model.gguf") -> Path:
    path = folder / name
    shape = ["--vocab", "2048", "--layers", "2", "--width", "64", "--context", "512"]
    subprocess.run([sys.executable, str(MAKE_GGUF), "--out", str(path), *shape, *options], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module", params=["llama", "mamba"])
def model(request, tmp_path_factory):
    path = make(tmp_path_factory.mktemp("gguf"), "--arch", request.param)
    model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    yield model
    model.close()


def test_text_survives_the_tokenizer(model):
    tokens = model.tokenize(TEXT.encode(), add_bos=False)

    assert model.detokenize(tokens).decode() == TEXT


def test_words_take_fewer_tokens_than_letters(model):
    tokens = model.tokenize(TEXT.encode(), add_bos=False)

    assert len(tokens) < len(TEXT.encode())


def test_control_tokens_are_one_token_each(model):
    tokens = model.tokenize(b"<|begin_of_text|><|start_header_id|><|end_header_id|><|eot_id|>", add_bos=False, special=True)

    assert tokens == [1792, 1798, 1799, 1801]


def test_it_generates_without_an_end(model):
    generator = model.generate(model.tokenize(b"once upon a time"), temp=0.0)

    generated = [next(generator) for _ in range(200)]

    assert not any(llama_cpp.llama_vocab_is_eog(model._model.vocab, token) for token in generated)
    assert len(set(generated)) > 20


def test_mamba_is_recurrent_and_llama_is_not(model):
    is_recurrent = llama_cpp.llama_model_is_recurrent(model._model.model)

    assert is_recurrent == (model.metadata["general.architecture"] == "mamba")


def test_the_same_arguments_write_the_same_bytes_and_another_seed_others(tmp_path):
    first, again, other = make(tmp_path, name="a"), make(tmp_path, name="b"), make(tmp_path, "--seed", "1", name="c")

    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("option", [("--vocab", "600"), ("--width", "100"), ("--arch", "gpt2"), ("--type", "q2_k")])
def test_what_cannot_be_written_is_refused(tmp_path, option):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        make(tmp_path, *option)

    assert refused.value.returncode == 2
