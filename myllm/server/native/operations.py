"""The native dialect's part of the reference."""

from __future__ import annotations

from myllm.server.native.answers import (
    ChatAnswer,
    Done,
    EmbeddingsAnswer,
    GenerateAnswer,
    LastEvent,
    ModelBody,
    ModelList,
    PullAnswer,
    SessionAnswer,
    SessionList,
    StatusAnswer,
    TextAnswer,
    TokenEvent,
    TokensAnswer,
)  # fmt: skip
from myllm.server.native.bodies import (
    ChatBody,
    DetokenizeBody,
    EmbeddingsBody,
    ForkBody,
    GenerateBody,
    LoadBody,
    PullBody,
    SessionsQuery,
    TitleBody,
    TokenizeBody,
)  # fmt: skip
from myllm.server.operations import Operation
from myllm.server.ranking import RerankAnswer, RerankBody
from myllm.sessions import SessionInfo

MODELS = (
    Operation("GET", "/api/models", "The installed models", answer=ModelList, errors=()),
    Operation("GET", "/api/models/{name}", "One model", "With `details`, the rest of its file's header.", answer=ModelBody, errors=(404,)),
    Operation(
        "POST",
        "/api/models/pull",
        "Fetch a model from the Hub",
        "A pull that broke off, or whose client left, goes on where it was.",
        body=PullBody,
        answer=PullAnswer,
        event=PullAnswer,
        errors=(400, 404, 409, 502, 507),
    ),
    Operation(
        "POST",
        "/api/models/{name}/load",
        "Load a model",
        "Succeeds at once where it is loaded as it was asked for.",
        body=LoadBody,
        is_body_required=False,
        answer=Done,
    ),
    Operation(
        "POST",
        "/api/models/{name}/unload",
        "Unload a model",
        "Running requests may finish. Succeeds for a model that is not loaded.",
        answer=Done,
        errors=(404,),
    ),
    Operation("DELETE", "/api/models/{name}", "Uninstall a model", "By its full name.", answer=Done, errors=(404, 409)),
)
ANSWERS = (
    Operation(
        "POST",
        "/api/chat",
        "The next turn of a conversation",
        "The conversation is kept: the answer's `session_id` goes on with it.",
        body=ChatBody,
        answer=ChatAnswer,
        event=TokenEvent | LastEvent,
        errors=(400, 404, 504),
    ),
    Operation(
        "POST",
        "/api/generate",
        "The continuation of a text",
        body=GenerateBody,
        answer=GenerateAnswer,
        event=TokenEvent | LastEvent,
        errors=(400, 404, 504),
    ),
    Operation("POST", "/api/embeddings", "Vectors for texts", body=EmbeddingsBody, answer=EmbeddingsAnswer),
    Operation("POST", "/api/rerank", "Documents by how well they answer a query", body=RerankBody, answer=RerankAnswer),
    Operation("POST", "/api/tokenize", "The tokens of a text", body=TokenizeBody, answer=TokensAnswer),
    Operation("POST", "/api/detokenize", "The text of tokens", body=DetokenizeBody, answer=TextAnswer),
)
SESSIONS = (
    Operation("GET", "/api/sessions", "The kept conversations, newest first", query=SessionsQuery, answer=SessionList, errors=(400,)),
    Operation("GET", "/api/sessions/{id}", "One conversation, with its messages", answer=SessionAnswer),
    Operation("PATCH", "/api/sessions/{id}", "Give a conversation a title", body=TitleBody, answer=SessionInfo),
    Operation("DELETE", "/api/sessions/{id}", "Forget a conversation", answer=Done),
    Operation(
        "POST",
        "/api/sessions/{id}/fork",
        "A new conversation that shares the first messages of this one",
        body=ForkBody,
        is_body_required=False,
        answer=SessionInfo,
    ),
)
OPERATIONS: tuple[Operation, ...] = (
    *ANSWERS,
    *MODELS,
    *SESSIONS,
    Operation("GET", "/api/status", "What is loaded, and how busy it is", answer=StatusAnswer, errors=()),
)
