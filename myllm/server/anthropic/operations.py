"""The Anthropic dialect's endpoints as the API's reference tells them."""

from __future__ import annotations

from myllm.server.anthropic.bodies import CountBody, MessagesBody
from myllm.server.anthropic.render import MessageBody, StreamEvent, TokenCount
from myllm.server.operations import Operation

OPERATIONS = (
    Operation(
        "POST",
        "/v1/messages",
        "The next message of a conversation",
        "As Anthropic's Messages API has it; what this server does not do yet is refused by name.",
        body=MessagesBody,
        answer=MessageBody,
        event=StreamEvent,
        errors=(400, 404, 504),
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        "The tokens of a conversation",
        "How many tokens the prompt of these messages has, chat template included.",
        body=CountBody,
        answer=TokenCount,
    ),
)
