"""What a worker does beside plain continuation, over the wire: log probabilities, gaps, ranking; and what it refuses."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import make_gguf
import pytest

from myllm.config import EngineOptions
from myllm.errors import ContextLengthExceeded, InvalidRequest, UnsupportedByModel
from myllm.memory import plan_load
from myllm.store.metadata import read_metadata
from myllm.types import Delta, SamplingParams, Span
from myllm.worker.handle import Generation, Worker

TINY = Path(__file__).parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def with_worker(path: Path, test: Callable[[Worker], Awaitable[None]]) -> None:
    async def run() -> None:
        options = EngineOptions()
        plan = plan_load(read_metadata(path), options, has_gpu=False)
        worker = await Worker.start(path.stem, path, options, plan, queue_size=8)
        try:
            await test(worker)
        finally:
            await worker.stop()

    asyncio.run(run())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models without fill-in-the-middle tokens: one that ranks, one that generates."""
    folder = tmp_path_factory.mktemp("made")
    shape = {"vocab": 2048, "layers": 2, "width": 64, "type": "f32", "seed": 0}
    kinds = {"reranker": {"arch": "bert", "rank": True, "context": 128}, "plain": {"arch": "llama", "context": 256, "share": 1}}
    for name, kind in kinds.items():
        make_gguf.write_model(argparse.Namespace(out=folder / f"{name}.gguf", **shape, **kind))
    return {name: folder / f"{name}.gguf" for name in kinds}


async def deltas_of(generation: Generation) -> list[Delta]:
    return [delta async for deltas in generation for delta in deltas]


def test_log_probabilities_of_prompt_and_answer_come_over_the_wire() -> None:
    async def test(worker: Worker) -> None:
        prompt = (Span("Once upon a time, é"),)
        params = GREEDY.updated({"num_logprobs": 2, "prompt_logprobs": True})

        deltas = await deltas_of(await worker.generate(prompt, params))

        tokens = [token for delta in deltas for token in delta.logprobs]
        assert "".join(token.text for token in tokens) == "".join(delta.text for delta in deltas)
        assert [len(token.top) for token in tokens] == [2] * 12
        (told,) = [delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs]
        assert deltas[0].prompt_logprobs == told
        assert [token.token_id for token in told] == await worker.tokenize(prompt)
        assert "".join(token.text for token in told) == "Once upon a time, é"

    with_worker(TINY, test)


def test_a_gap_is_filled_from_text_and_from_tokens_alike() -> None:
    async def test(worker: Worker) -> None:
        assert worker.info.can_fill_in
        prefix = await worker.tokenize((Span("def f(", is_literal=True),), add_special=False)
        suffix = await worker.tokenize((Span("): return 1", is_literal=True),), add_special=False)
        bos, pre, suf, mid = [
            (await worker.tokenize((Span(text),), add_special=False))[0]
            for text in ("<|begin_of_text|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
        ]
        parts = [bos, pre, *prefix, suf, *suffix, mid]

        generations = [
            await worker.generate((Span("def f("),), GREEDY, "): return 1"),
            await worker.generate(prefix, GREEDY, suffix="): return 1"),
            await worker.generate(parts, GREEDY),
        ]

        texts = ["".join(delta.text for delta in await deltas_of(generation)) for generation in generations]
        assert texts[0] == texts[1] == texts[2] != ""
        assert [generation.num_prompt_tokens for generation in generations] == [len(parts)] * 3

    with_worker(TINY, test)


def test_control_tokens_in_code_are_letters_and_nothing_at_all_is_a_gap_too() -> None:
    async def test(worker: Worker) -> None:
        written = await worker.generate((Span("<|eot_id|>"),), GREEDY, "<|fim_middle|>")
        empty = await worker.generate((), GREEDY, "")

        texts = ("<|eot_id|>", "<|fim_middle|>")
        letters = [await worker.tokenize((Span(text, is_literal=True),), add_special=False) for text in texts]
        assert written.num_prompt_tokens == 4 + sum(map(len, letters)) > 10
        assert empty.num_prompt_tokens == 4

    with_worker(TINY, test)


def test_a_gap_that_is_too_long_is_refused_with_both_numbers() -> None:
    async def test(worker: Worker) -> None:
        with pytest.raises(ContextLengthExceeded, match="2,048"):
            await worker.generate((Span("word " * 1500),), GREEDY, "word " * 1500)

    with_worker(TINY, test)


def test_a_model_without_the_tokens_refuses_a_suffix_and_one_that_generates_ranks_nothing(made: dict[str, Path]) -> None:
    async def test(worker: Worker) -> None:
        assert not worker.info.can_fill_in and not worker.info.can_rank
        with pytest.raises(UnsupportedByModel, match="fill-in-the-middle") as refused:
            await worker.generate((Span("a"),), GREEDY, "b")
        with pytest.raises(UnsupportedByModel) as unranked:
            await worker.rank("query", ["document"])

        assert (refused.value.param, unranked.value.param) == ("suffix", "model")
        assert len(await deltas_of(await worker.generate((Span("a"),), GREEDY))) > 0

    with_worker(made["plain"], test)


def test_documents_are_scored_for_a_query(made: dict[str, Path]) -> None:
    async def test(worker: Worker) -> None:
        assert worker.info.can_rank and not worker.info.can_generate and not worker.info.can_fill_in
        documents = [f"text {number} " * (1 + number % 7) for number in range(90)]

        scores, num_tokens = await worker.rank("which text", documents)
        alone, _ = await worker.rank("which text", documents[42:43])
        nothing = await worker.rank("which text", [])

        assert len(scores) == 90 and len(set(scores)) > 50
        assert scores[42] == pytest.approx(alone[0], abs=2e-3)
        assert num_tokens > 90 * 8
        assert nothing == ([], 0)

    with_worker(made["reranker"], test)


def test_a_wrong_document_is_refused_with_its_place(made: dict[str, Path]) -> None:
    async def test(worker: Worker) -> None:
        with pytest.raises(InvalidRequest, match="'documents' 1 is empty") as empty:
            await worker.rank("query", ["fine", ""])
        with pytest.raises(ContextLengthExceeded, match=r"'documents' 2 .* takes 128") as long:
            await worker.rank("query", ["fine", "fine", "word " * 200])
        with pytest.raises(InvalidRequest, match="'query' is empty"):
            await worker.rank("", ["fine"])

        assert (empty.value.param, long.value.param) == ("documents", "documents")
        assert worker.num_requests == 0

    with_worker(made["reranker"], test)


def test_a_model_that_ranks_makes_no_embeddings_and_no_text(made: dict[str, Path]) -> None:
    """Its head gives one number; as many as an embedding has were read, out of memory that was not its own."""

    async def test(worker: Worker) -> None:
        with pytest.raises(UnsupportedByModel, match="ranks") as refused:
            await worker.embed(["text"])

        with pytest.raises(UnsupportedByModel, match="ranks documents and cannot generate"):
            await worker.generate((Span("text"),), GREEDY)
        assert refused.value.param == "model"

    with_worker(made["reranker"], test)
