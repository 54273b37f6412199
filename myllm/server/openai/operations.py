"""This dialect's part of the reference, for `/v1` and for the prefix of a service."""

from __future__ import annotations

from typing import Any

from myllm.server.openai.answers import (
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    CompletionChunk,
    EmbeddingsAnswer,
    ModelList,
    WholeModelAnswer,
)  # fmt: skip
from myllm.server.openai.bodies import ChatBody, CompletionBody, EmbeddingsBody
from myllm.server.openai.requests import ServiceChatBody
from myllm.server.openai.responses_operations import RERANK, RESPONSES
from myllm.server.operations import Operation

DONE = "[DONE]"
_REFUSED = "What this server does not do yet is refused by name."
_WRAPPED = 'A body may be wrapped in `{"payload": {…}}`.'


def operations(prefix: str, *, of_service: bool = False) -> tuple[Operation, ...]:
    """The endpoints at a prefix; those of a service take more forms of a body."""
    chat: Any = ServiceChatBody if of_service else ChatBody
    completion: Any = CompletionBody | ServiceChatBody if of_service else CompletionBody
    also = f" {_WRAPPED}" if of_service else ""
    with_messages = " With `messages` it answers as a chat does." if of_service else ""
    return (
        Operation("GET", f"{prefix}/models", "The models", answer=ModelList, errors=()),
        Operation("GET", f"{prefix}/models/{{id}}", "One model", answer=WholeModelAnswer, errors=(404,)),
        Operation(
            "POST",
            f"{prefix}/chat/completions",
            "The next message of a conversation",
            f"The same is answered on a WebSocket at this path. {_REFUSED}{also}",
            body=chat,
            answer=ChatAnswer,
            event=ChatChunk,
            last_data=DONE,
            errors=(400, 404, 504),
        ),
        Operation(
            "POST",
            f"{prefix}/completions",
            "The continuation of a text",
            f"Of several prompts the answers stand prompt by prompt.{with_messages}{also}",
            body=completion,
            answer=CompletionAnswer | ChatAnswer if of_service else CompletionAnswer,
            event=CompletionChunk | ChatChunk if of_service else CompletionChunk,
            last_data=DONE,
            errors=(400, 404, 504),
        ),
        Operation(
            "POST",
            f"{prefix}/embeddings",
            "Vectors of texts",
            f"Without a model, the default model answers.{also}",
            body=EmbeddingsBody,
            answer=EmbeddingsAnswer,
        ),
    )


OPERATIONS = (*operations("/v1"), *RESPONSES, RERANK)
