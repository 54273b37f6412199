"""The part of the reference that is about responses and reranking."""

from __future__ import annotations

from myllm.server.openai.responses_answers import DeletedResponse, InputItems, ResponseAnswer, ResponseEvent
from myllm.server.openai.responses_bodies import ItemsQuery, ResponseQuery, ResponsesBody
from myllm.server.operations import Operation
from myllm.server.ranking import RerankAnswer, RerankBody

RESPONSES: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/responses",
        "The next turn of a conversation that is kept by its responses",
        "`previous_response_id` goes on from a stored response. What this server does not do yet is refused by name.",
        body=ResponsesBody,
        answer=ResponseAnswer,
        event=ResponseEvent,
        errors=(400, 404, 504),
    ),
    Operation("GET", "/v1/responses/{id}", "A stored response, as it was answered", query=ResponseQuery, answer=ResponseAnswer),
    Operation(
        "DELETE",
        "/v1/responses/{id}",
        "Forget a response",
        "Its turn is forgotten with it where no other goes on from it.",
        answer=DeletedResponse,
        errors=(404,),
    ),
    Operation(
        "GET",
        "/v1/responses/{id}/input_items",
        "The conversation that a response answered",
        query=ItemsQuery,
        answer=InputItems,
    ),
)
RERANK = Operation("POST", "/v1/rerank", "Documents by how well they answer a query", body=RerankBody, answer=RerankAnswer)
