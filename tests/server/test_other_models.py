"""Models that are no llamas: an encoder that only embeds, and a recurrent one, made by bench/make_gguf.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import make_gguf
import pytest
from live_server import LiveServer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("made")
    for arch, context in (("bert", 512), ("mamba", 1024)):
        shape = {"vocab": 2048, "layers": 2, "width": 64, "context": context, "type": "f32", "seed": 0}
        make_gguf.write_model(argparse.Namespace(out=folder / f"{arch}.gguf", arch=arch, **shape))
    server = LiveServer(tmp_path_factory.mktemp("home"), MYLLM_MODEL_DIRS=str(folder))
    yield server
    server.stop()


def test_an_encoder_embeds_many_inputs_and_each_as_if_it_were_alone(models: LiveServer) -> None:
    inputs = [f"text number {number} " * (number + 1) for number in range(40)]

    together = models.post("/api/embeddings", model="bert", input=inputs).json()["embeddings"]

    for at in (0, 13, 39):
        alone = models.post("/api/embeddings", model="bert", input=inputs[at]).json()["embedding"]
        assert sum(x * y for x, y in zip(alone, together[at], strict=True)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("path", "body"), [("generate", {"prompt": "x"}), ("chat", {"messages": [{"role": "user", "content": "x"}]})])
def test_an_encoder_says_that_it_cannot_generate(models: LiveServer, path: str, body: dict[str, object]) -> None:
    response = models.post(f"/api/{path}", model="bert", **body)

    assert response.status_code == 400 and "embeddings" in response.json()["detail"]


def test_an_input_over_the_encoders_context_is_told_with_both_numbers_and_its_place(models: LiveServer) -> None:
    response = models.post("/api/embeddings", model="bert", input=["fine", "word " * 600])

    assert response.status_code == 400
    assert "'input' 1" in response.json()["detail"] and "takes 512" in response.json()["detail"]


def test_a_recurrent_model_serves_more_streams_than_it_has_slots_each_as_if_it_were_alone(models: LiveServer) -> None:
    def text(number: int) -> str:
        body = {"model": "mamba", "prompt": f"number {number}", "options": {"temperature": 0, "max_tokens": 24, "ignore_eos": True}}
        answer: str = models.post("/api/generate", **body).json()["text"]
        return answer

    alone = [text(number) for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(text, range(20)))

    assert together == alone and len(set(alone)) > 10
    assert models.status("mamba")["parallel"] < 20
