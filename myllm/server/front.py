"""The front door: `/` and `/health`. They need no key, so they tell a stranger what runs here and which models, and no more.

How busy the server is, what it has loaded and where its files lie are told by `/api/status` and `/metrics`, which need one.
"""

from __future__ import annotations

from html import escape
from typing import Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from myllm import __version__
from myllm.server.json_response import json_response
from myllm.server.operations import Operation
from myllm.server.pages import Page
from myllm.server.readiness import Readiness, ServerStatus
from myllm.server.tags import parameter_size
from myllm.service import Service
from myllm.store.store import InstalledModel

ENDPOINTS = {
    "chat": "/chat",
    "chat_with_model": "/chat/{model_name}",
    "chat_litellm": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "health": "/health",
    "models": "/models",
    "docs": "/docs",
}


class ModelCard(Struct):
    """litellm_name: what LiteLLM calls the model when it asks for it at `ollama_url`."""

    name: str
    description: str
    provider: str
    litellm_name: str


class RootAnswer(Struct):
    """ollama_url: where the Ollama dialect is served. endpoints: paths by what they are for."""

    name: str
    version: str
    status: Literal["running"]
    models_available: int
    message: str
    default_model: str
    available_models: dict[str, ModelCard]
    ollama_url: str
    endpoints: dict[str, str]


class HealthAnswer(Struct):
    """ollama_service: whether the Ollama dialect is answered; litellm_enabled: that the OpenAI one is served."""

    status: ServerStatus
    ollama_service: Literal["up", "down"]
    default_model: str
    available_models: list[str]
    litellm_enabled: bool


class Front:
    def __init__(self, service: Service, readiness: Readiness) -> None:
        self.service = service
        self.readiness = readiness

    def routes(self) -> list[Route]:
        return [Route("/", self.root), Route("/health", self.health)]

    async def root(self, request: Request) -> Response:
        installed = await self.service.list_models()
        if prefers_html(request.headers.get("accept", "")):
            response = render_page(installed).response()
        else:
            response = json_response(await self._root(request, installed))
        response.headers["vary"] = "accept"
        return response

    async def health(self, request: Request) -> Response:
        status = self.readiness.status
        answer = HealthAnswer(
            status=status,
            ollama_service="down" if status == "draining" else "up",
            default_model=await self.service.default_model(),
            available_models=[model.name for model in await self.service.list_models()],
            litellm_enabled=True,
        )
        return json_response(answer, 200 if status == "healthy" else 503)

    async def _root(self, request: Request, installed: list[InstalledModel]) -> RootAnswer:
        return RootAnswer(
            name="MyLLM",
            version=__version__,
            status="running",
            models_available=len(installed),
            message="MyLLM is running",
            default_model=await self.service.default_model(),
            available_models={model.name: render_card(model) for model in installed},
            ollama_url=self._ollama_url(request),
            endpoints=ENDPOINTS,
        )

    def _ollama_url(self, request: Request) -> str:
        """On the host that the client asked for: the dialect's own port, else its path on this one."""
        port = self.service.settings.ollama_port
        return f"{request.base_url}ollama" if port is None else str(request.base_url.replace(port=port)).rstrip("/")


def render_card(installed: InstalledModel) -> ModelCard:
    meta = installed.metadata
    return ModelCard(
        name=installed.name,
        description=f"{meta.name or installed.name}, {parameter_size(meta.parameter_count)} parameters, {meta.quantization}",
        provider="ollama",
        litellm_name=f"ollama/{installed.name}",
    )


def render_page(installed: list[InstalledModel]) -> Page:
    """For people who opened the address in a browser."""
    cards = [render_card(model) for model in installed]
    models = "\n".join(f"<li><code>{escape(card.name)}</code> <span class=quiet>{escape(card.description)}</span></li>" for card in cards)
    body = (
        f"<h1>MyLLM is running</h1>\n<p class=quiet>Version {escape(__version__)}</p>\n"
        f"<h2>Installed models</h2>\n{f'<ul>{models}</ul>' if models else '<p>None.</p>'}\n"
        '<h2>For programs</h2>\n<p><a href="/docs">The API and its endpoints</a>, also as <a href="/openapi.json">OpenAPI</a>.</p>'
    )
    return Page("MyLLM", body)


def prefers_html(accept: str) -> bool:
    """Whether an Accept header names HTML and puts it before JSON, as browsers do."""
    weights = dict(map(_weight, accept.split(",")))
    return weights.get("text/html", 0) > weights.get("application/json", 0)


def _weight(part: str) -> tuple[str, float]:
    kind, *parameters = (word.strip().lower() for word in part.split(";"))
    quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
    try:
        return kind, float(quality)
    except ValueError:
        return kind, 0.0


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/",
        "What runs here",
        "The server and the installed models; a page for people where the client prefers `text/html`.",
        answer=RootAnswer,
        other_media=("text/html",),
        errors=(),
        is_public=True,
    ),
    Operation(
        "GET",
        "/health",
        "Whether the server is ready",
        "200 once it is; 503 with the same body while it starts or stops.",
        answer=HealthAnswer,
        other_answers=((503, HealthAnswer),),
        errors=(),
        is_public=True,
    ),
)
