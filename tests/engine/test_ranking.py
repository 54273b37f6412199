"""What a model that ranks reads, and how well its scores survive being computed with others."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing

import llama_cpp.llama_cpp as C
import make_gguf
import numpy as np
import pytest

from myllm.config import EngineOptions
from myllm.engine.embedder import Embedder, EmbeddingJob, RankingJob
from myllm.engine.llama import LlamaContext, LlamaModel
from myllm.engine.prompts import SpecialTokens
from myllm.engine.ranking import Ranking
from myllm.engine.tokens import Int32Array
from myllm.errors import ContextLengthExceeded, InvalidRequest
from myllm.types import Prompt, Span


class Letters:
    """A tokenizer whose tokens are letters, `<x>` a control token 900 where it may be one."""

    def __init__(self, special: SpecialTokens, rank_template: str | None = None) -> None:
        self.special = special
        self.rank_template = rank_template
        self.prompts: list[Prompt] = []

    def tokenize(self, prompt: Prompt, *, add_special: bool = True) -> Int32Array:
        assert not add_special
        self.prompts.append(prompt)
        ids: list[int] = []
        for span in prompt:
            parts = [span.text] if span.is_literal else span.text.split("<x>")
            ids += [letter for number, part in enumerate(parts) for letter in ([900] * (number > 0) + list(map(ord, part)))]
        return np.array(ids, np.int32)

    def holds_control_tokens(self, text: str) -> bool:
        return "<x>" in text


def text_of(token_ids: Int32Array) -> str:
    names = {900: "[X]", 901: "[BOS]", 902: "[EOS]", 903: "[SEP]"}
    return "".join(names.get(token_id) or chr(token_id) for token_id in token_ids.tolist())


def inputs(special: SpecialTokens, query: str, *documents: str, template: str | None = None, max_tokens: int = 200) -> list[str]:
    ranking = Ranking(Letters(special, template), name="fake", max_tokens=max_tokens)
    return [text_of(token_ids) for token_ids in ranking.inputs(query, list(documents))]


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        (SpecialTokens(901, 902, 903, adds_bos=True, adds_eos=True, adds_sep=True), "[BOS]q[EOS][SEP]d[EOS]"),
        (SpecialTokens(901, 902, 903, adds_bos=True, adds_eos=True), "[BOS]q[EOS]d[EOS]"),
        (SpecialTokens(901, 902, 903, adds_bos=True, adds_sep=True), "[BOS]q[SEP]d"),
        (SpecialTokens(901, None, 903, adds_bos=True, adds_eos=True), "[BOS]q[SEP]d[SEP]"),  # BERT: [CLS] q [SEP] d [SEP]
        (SpecialTokens(901, 902, 903), "qd"),
        (SpecialTokens(adds_bos=True, adds_eos=True, adds_sep=True), "qd"),
    ],
)
def test_query_and_document_stand_as_the_vocabulary_wants_them(special: SpecialTokens, expected: str):
    assert inputs(special, "q", "d") == [expected]


def test_every_document_stands_beside_the_query_in_their_order():
    assert inputs(SpecialTokens(None, 902, adds_eos=True), "q", "a", "b", "a") == ["q[EOS]a[EOS]", "q[EOS]b[EOS]", "q[EOS]a[EOS]"]


TEMPLATE = "<x>find {query} in {document}<x>"


def test_a_models_own_template_is_filled_and_its_control_tokens_are_read():
    assert inputs(SpecialTokens(901, adds_bos=True), "q", "d", template=TEMPLATE) == ["[X]find q in d[X]"]


def test_a_filled_template_is_tokenised_as_one_text():
    tokenizer = Letters(SpecialTokens(), TEMPLATE)

    Ranking(tokenizer, name="fake", max_tokens=100).inputs("q", ["d"])

    assert tokenizer.prompts[-1] == (Span("<x>find q in d<x>"),)


def test_control_tokens_in_a_query_or_a_document_stay_letters():
    found = inputs(SpecialTokens(), "q<x>", "<x>d", "plain", template=TEMPLATE)

    assert found == ["[X]find q<x> in <x>d[X]", "[X]find q<x> in plain[X]"]


def test_a_place_that_somebody_wrote_into_a_query_is_not_filled():
    assert inputs(SpecialTokens(), "{document}", "{query}", template=TEMPLATE) == ["[X]find {document} in {query}[X]"]


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize(
    ("query", "documents", "error", "param", "says"),
    [
        ("", ["d"], InvalidRequest, "query", "'query' is empty"),
        ("q", ["d", "e", ""], InvalidRequest, "documents", "'documents' 2 is empty"),
        ("q" * 51, ["d"], ContextLengthExceeded, "query", "'query' has 51 tokens, model 'fake' takes 50"),
        ("q", ["d", "d" * 51], ContextLengthExceeded, "documents", "'documents' 1 has 51 tokens"),
        ("q" * 25, ["d", "d" * 26], ContextLengthExceeded, "documents", "'documents' 1 with the query has"),
    ],
)
def test_a_wrong_text_is_refused_with_its_place(template, query, documents, error, param, says):
    with pytest.raises(error) as refused:
        inputs(SpecialTokens(), query, *documents, template=template, max_tokens=50)

    assert says in refused.value.message
    assert refused.value.param == param


def test_the_longest_that_fits_is_taken():
    assert len(inputs(SpecialTokens(), "q" * 25, "d" * 25, max_tokens=50)[0]) == 50


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    path = tmp_path_factory.mktemp("reranker") / "reranker.gguf"
    shape = {"vocab": 2048, "layers": 2, "width": 64, "context": 512, "type": "f32", "seed": 0, "rank": True}
    make_gguf.write_model(argparse.Namespace(out=path, arch="bert", **shape))
    with closing(LlamaModel(path, EngineOptions(), lambda fraction: None)) as model:
        yield model


def reference(model: LlamaModel, token_ids: list[int]) -> float:
    """llama.cpp's own score of one input, over nothing but its C interface."""
    params = C.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.embeddings, params.n_threads, params.n_threads_batch = True, 1, 1
    context = C.llama_init_from_model(model.pointer, params)
    tokens = (C.llama_token * len(token_ids))(*token_ids)
    assert C.llama_decode(context, C.llama_batch_get_one(tokens, len(token_ids))) == 0
    score = float(C.llama_get_embeddings_seq(context, 0)[0])
    C.llama_free(context)
    return score


def embedder_of(model: LlamaModel) -> Embedder:
    return Embedder(lambda num_tokens: LlamaContext.for_embeddings(model, EngineOptions(), num_tokens=num_tokens, num_slots=64, threads=1))


def test_scores_are_the_models_own_however_many_share_a_decode(reranker: LlamaModel):
    documents = [f"the number {number} " * (1 + number % 5) for number in range(100)] + ["short", "long " * 150]
    ranking = Ranking(reranker, name="reranker", max_tokens=512)
    job = RankingJob(1, ranking.inputs("which number", documents))
    embedder = embedder_of(reranker)
    embedder.add(job)

    while embedder.has_work:
        embedder.step(512)

    assert len(job.scores) == 102 and len(set(job.scores)) > 50
    for at in (0, 1, 57, 99, 100, 101):
        assert job.scores[at] == pytest.approx(reference(reranker, job.inputs[at].tolist()), abs=2e-3)


def test_a_better_document_has_the_better_score_whatever_its_place(reranker: LlamaModel):
    documents = ["a", "be", "see", "dee", "ee eff gee"]
    ranking = Ranking(reranker, name="reranker", max_tokens=512)

    def scores(order: list[int]) -> dict[int, float]:
        embedder, job = embedder_of(reranker), RankingJob(1, ranking.inputs("letters", [documents[at] for at in order]))
        embedder.add(job)
        embedder.step(512)
        return dict(zip(order, job.scores, strict=True))

    forward, backward = scores([0, 1, 2, 3, 4]), scores([4, 3, 2, 1, 0])

    assert sorted(forward, key=forward.__getitem__) == sorted(backward, key=backward.__getitem__)
    assert len(set(forward.values())) == 5


def test_a_model_says_whether_it_ranks(reranker: LlamaModel, tiny: LlamaModel):
    assert reranker.can_rank and not tiny.can_rank
    assert reranker.rank_template is None


def test_a_score_stays_as_it_is_and_a_vector_is_normalised():
    ranking, embedding = RankingJob(1, [np.array([1], np.int32)]), EmbeddingJob(2, [np.array([1], np.int32)])

    ranking.take(np.array([-7.5], np.float32))
    embedding.take(np.array([3.0, 4.0], np.float32))

    assert ranking.scores == [-7.5]
    assert embedding.vectors[0].tolist() == pytest.approx([0.6, 0.8])
