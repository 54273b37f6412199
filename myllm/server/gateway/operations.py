"""The gateway's part of the reference."""

from __future__ import annotations

from myllm.server.gateway.bodies import ChatAnswer, ChatBody, LastEvent, ModelList, TokenEvent
from myllm.server.operations import Operation

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/models", "The installed models, newest first", answer=ModelList, errors=()),
    Operation(
        "POST",
        "/chat",
        "Ask one thing",
        "Without a model, the default model answers. Thoughts of a model that thinks come in `reasoning`, never in `response` or `token`.",
        body=ChatBody,
        answer=ChatAnswer,
        event=TokenEvent | LastEvent,
        errors=(400, 404, 504),
    ),
    Operation(
        "POST",
        "/chat/{model}",
        "Ask one thing of this model",
        "As `POST /chat`; the model of the path goes before that of the body.",
        body=ChatBody,
        answer=ChatAnswer,
        event=TokenEvent | LastEvent,
        errors=(400, 404, 504),
    ),
)
