"""Reranking over HTTP, in both dialects that have it, with a small model that was made to rank."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import make_gguf
import pytest
from live_server import LiveServer
from typed_answers import assert_is

from myllm.server.ranking import RerankAnswer

PATHS = ["/api/rerank", "/v1/rerank", "/api/v1/rerank"]
DOCUMENTS = ["Bread is made of flour.", "Paris is the capital of France.", "The sea is deep.", "I like trains."]
QUERY = "What is the capital of France?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Its home holds a model that ranks, with random weights: the scores mean nothing, and are different."""
    folder = tmp_path_factory.mktemp("made")
    shape = {"vocab": 2048, "layers": 2, "width": 64, "type": "f32", "seed": 0, "context": 128}
    make_gguf.write_model(argparse.Namespace(out=folder / "reranker.gguf", arch="bert", rank=True, **shape))
    live = LiveServer(tmp_path_factory.mktemp("home"), MYLLM_MODEL_DIRS=str(folder))
    yield live
    live.stop()


def rerank(server: LiveServer, path: str = "/v1/rerank", **fields: Any) -> dict[str, Any]:
    response = server.post(path, **{"model": "reranker", "query": QUERY, "documents": DOCUMENTS} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert_is(RerankAnswer, answer)
    return answer


@pytest.mark.parametrize("path", PATHS)
def test_all_documents_come_back_by_their_places_the_best_first(server: LiveServer, path: str) -> None:
    answer = rerank(server, path)

    assert (answer["model"], answer["object"]) == ("reranker", "list")
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2, 3]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 4 * len(QUERY.split())
    assert all("document" not in result for result in answer["results"])


def test_a_documents_score_does_not_depend_on_its_place(server: LiveServer) -> None:
    there = {result["index"]: result["relevance_score"] for result in rerank(server)["results"]}

    back = {result["index"]: result["relevance_score"] for result in rerank(server, documents=DOCUMENTS[::-1])["results"]}

    assert all(math.isclose(there[at], back[3 - at], abs_tol=1e-4) for at in range(4))


def test_top_n_leaves_the_best(server: LiveServer) -> None:
    everything = rerank(server)["results"]

    best = rerank(server, top_n=2)["results"]

    assert [result["index"] for result in best] == [result["index"] for result in everything[:2]]
    assert len(rerank(server, top_n=100)["results"]) == 4


def test_documents_may_be_objects_and_come_back_where_asked_for(server: LiveServer) -> None:
    answer = rerank(server, documents=[{"text": DOCUMENTS[0], "title": "Bread"}, DOCUMENTS[1]], return_documents=True)

    assert {result["index"]: result["document"] for result in answer["results"]} == {0: {"text": DOCUMENTS[0]}, 1: {"text": DOCUMENTS[1]}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": None}, "'model'"),
        ({"query": None}, "'query'"),
        ({"query": ""}, "'query'"),
        ({"query": ["x"]}, "'query'"),
        ({"documents": None}, "'documents'"),
        ({"documents": []}, "'documents'"),
        ({"documents": ["fine", ""]}, "'documents' 1"),
        ({"documents": ["fine", "word " * 500]}, "'documents' 1"),
        ({"documents": [7]}, "'documents[0]'"),
        ({"documents": [{"title": "x"}]}, "'documents[0].text'"),
        ({"top_n": 0}, "'top_n'"),
        ({"top_n": 10**30}, "'top_n'"),
        ({"return_documents": "yes"}, "'return_documents'"),
        ({"model": "tiny"}, "rank"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", PATHS)
def test_what_cannot_be_ranked_is_400_and_named(server: LiveServer, path: str, fields: dict[str, Any], named: str) -> None:
    body = {"model": "reranker", "query": QUERY, "documents": DOCUMENTS} | fields

    response = server.post(path, **body)

    assert response.status_code == 400
    error = response.json()
    assert named in (error["detail"] if path == "/api/rerank" else error["error"]["message"])


def test_a_model_that_ranks_says_so_and_cannot_chat(server: LiveServer) -> None:
    model = server.http.get("/api/models/reranker").json()
    chat = server.post("/v1/chat/completions", model="reranker", messages=[{"role": "user", "content": "Hello!"}])

    assert "rerank" in model["capabilities"] and "chat" not in model["capabilities"]
    assert chat.status_code == 400


def test_an_unknown_model_is_404(server: LiveServer) -> None:
    response = server.post("/v1/rerank", model="none", query=QUERY, documents=DOCUMENTS)

    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
