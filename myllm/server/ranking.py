"""Reranking, in the form that Jina and Cohere gave it: which of these documents answer the query best?

`/v1/rerank` and `/api/rerank` take and answer the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from myllm.server.ranges import Count
from myllm.service import Ranking


class Document(Struct):
    text: str


class RerankBody(Struct, kw_only=True):
    """A document is a string or an object with a `text`. `top_n` cuts the list of results, which has all documents otherwise."""

    model: str
    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1)]
    top_n: Count | None = None
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        return [each if isinstance(each, str) else each.text for each in self.documents]


class RankedDocument(Struct):
    """`index` is the document's place in the request. A larger score is better; what it means beyond that is the model's own."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RankingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class RerankAnswer(Struct, kw_only=True):
    """The best document first."""

    model: str
    object: Literal["list"] = "list"
    results: list[RankedDocument]
    usage: RankingUsage


def render_ranking(ranking: Ranking, body: RerankBody, texts: Sequence[str]) -> RerankAnswer:
    best = sorted(range(len(texts)), key=lambda index: ranking.scores[index], reverse=True)[: body.top_n]

    def told(index: int) -> RankedDocument:
        return RankedDocument(index, ranking.scores[index], Document(texts[index]) if body.return_documents else UNSET)

    return RerankAnswer(
        model=ranking.model,
        results=[told(index) for index in best],
        usage=RankingUsage(ranking.num_tokens, ranking.num_tokens),
    )
