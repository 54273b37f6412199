"""The chapters of the reference: each dialect's operations, with the form that its errors have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from myllm.config import Settings
from myllm.server import anthropic, front, gateway, metrics, native, ollama, openai
from myllm.server.anthropic.errors import ErrorBody as AnthropicError
from myllm.server.detail_form import DetailError, StreamError
from myllm.server.ollama.errors import ErrorAnswer as OllamaError
from myllm.server.openai.errors import ErrorAnswer as OpenAIError
from myllm.server.operations import Operation


@dataclass(frozen=True)
class Chapter:
    """error: the type of an error's body. stream_error: of the event that ends a stream which broke.

    like: the chapter whose operations these are, below another prefix.
    """

    title: str
    description: str
    operations: Sequence[Operation]
    error: Any
    stream_error: Any
    like: str | None = None


REFERENCE = (
    Operation("GET", "/openapi.json", "This reference, as OpenAPI 3.1", answer=dict[str, Any], errors=()),
    Operation("GET", "/docs", "This reference, as a page", answer=str, media="text/html", errors=()),
)


def chapters(settings: Settings) -> list[Chapter]:
    """What a server with these settings serves."""
    openai_chapter = Chapter("OpenAI", "What OpenAI's SDKs speak.", openai.OPERATIONS, OpenAIError, OpenAIError)
    return [
        Chapter("MyLLM", "Chats that the server keeps, texts, embeddings, models.", native.OPERATIONS, DetailError, StreamError),
        Chapter("Gateway", "One message in, one response out.", gateway.OPERATIONS, DetailError, StreamError),
        openai_chapter,
        Chapter("Ollama", "What Ollama's clients speak; on its own port without `/ollama`.", ollama.OPERATIONS, OllamaError, OllamaError),
        Chapter("Anthropic", "What Anthropic's SDKs speak.", anthropic.OPERATIONS, AnthropicError, AnthropicError),
        Chapter(
            "Server",
            "What runs here and how it is.",
            (*front.OPERATIONS, *metrics.OPERATIONS, *REFERENCE),
            DetailError,
            StreamError,
        ),
        _below("/ollama/v1", openai_chapter, "What OpenAI has, beside the Ollama API."),
        *(_of_service(each.prefix, openai_chapter) for each in openai.services(settings)),
    ]


def _of_service(prefix: str, chapter: Chapter) -> Chapter:
    description = f"What {chapter.title} has, with the models of this service. A body may be wrapped as `payload` of another."
    return _below(prefix, chapter, description, openai.operations(prefix, of_service=True))


def _below(prefix: str, chapter: Chapter, description: str, own: Sequence[Operation] = ()) -> Chapter:
    """The chapter's operations with this prefix in place of `/v1`, but for those that have forms of their own there."""
    moved = (replace(each, path=prefix + each.path.removeprefix("/v1")) for each in chapter.operations)
    operations = {(each.method, each.path): each for each in (*moved, *own)}
    title = f"{chapter.title} at {prefix}"
    return replace(chapter, title=title, description=description, operations=[*operations.values()], like=chapter.title)
