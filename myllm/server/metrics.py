"""`GET /metrics`: what the server counted of its requests, and what its workers say of themselves, for Prometheus.

Requests are counted as they end; everything else is read when somebody asks, from what the workers tell anyway, so no token
costs anything here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from myllm import __version__
from myllm.loaded_model import LoadedModel
from myllm.server.operations import Operation
from myllm.service import Service

LEFT = "499"  # the client was gone before there was a status
NO_ROUTE = "other"  # any number of paths that do not exist are one line

OF_A_WORKER = (
    ("myllm_sequences_running", "Sequences that are prefilled or generated.", "running"),
    ("myllm_sequences_waiting", "Sequences in the model's queue.", "waiting"),
    ("myllm_cells_used", "KV cells in use, by running sequences or for reuse.", "cells_used"),
)
OF_ALL_ITS_WORKERS = (
    ("myllm_prompt_tokens", "Tokens of prompts that were evaluated.", "prompt_tokens"),
    ("myllm_cached_tokens", "Tokens of prompts that were in the cache already.", "cached_tokens"),
    ("myllm_generated_tokens", "Tokens generated.", "generated_tokens"),
    ("myllm_preemptions", "Sequences that had to give their cells up for a while.", "preemptions"),
)


class Metrics(Collector):
    """One per server."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.num_running = 0
        self.requests: Counter[tuple[str, str, str]] = Counter()  # by method, path and status
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def routes(self) -> list[Route]:
        return [Route("/metrics", self.answer)]

    async def answer(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    def collect(self) -> Iterator[Metric]:
        yield from self._of_requests()
        yield from self._of_models(self.service.manager.loaded())
        yield from self._of_tokens()

    def describe(self) -> list[Metric]:
        """Nothing to be known beforehand; without it, registering would ask for the values of a server that is not up yet."""
        return []

    def _of_requests(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("myllm_requests_running", "HTTP requests that are being answered.", self.num_running)
        total = CounterMetricFamily("myllm_requests", "HTTP requests that have ended.", labels=["method", "path", "status"])
        for labels, count in self.requests.items():
            total.add_metric(labels, count)
        yield total

    def _of_models(self, models: list[LoadedModel]) -> Iterator[Metric]:
        manager = self.service.manager
        info = GaugeMetricFamily("myllm_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily("myllm_models_loaded", "Models that can answer at once.", sum(model.worker is not None for model in models))
        yield GaugeMetricFamily("myllm_models_loading", "Models on their way up.", sum(model.worker is None for model in models))
        yield CounterMetricFamily("myllm_model_loads", "Loads begun since the start.", manager.num_loads)
        yield _gauge("myllm_room_waiting", "Requests that wait for a model to find room in memory.", manager.waiting())
        yield _gauge("myllm_memory_bytes", "Main memory that the model takes.", {model.name: model.memory_bytes for model in models})
        workers = [model.worker for model in models if model.worker is not None]
        for name, text, field in OF_A_WORKER:
            yield _gauge(name, text, {worker.name: getattr(worker.stats, field) for worker in workers})
        yield _gauge("myllm_cells_total", "KV cells of the model's context.", {worker.name: worker.info.num_cells for worker in workers})
        rates = {worker.name: worker.stats.tokens_per_second if worker.stats.running else 0.0 for worker in workers}
        yield _gauge("myllm_tokens_per_second", "Tokens generated, of all sequences.", rates)

    def _of_tokens(self) -> Iterator[Metric]:
        totals = self.service.manager.tally.totals()
        for name, text, field in OF_ALL_ITS_WORKERS:
            family = CounterMetricFamily(name, text, labels=["model"])
            for model, worked in totals.items():
                family.add_metric([model], getattr(worked, field))
            yield family


class CountRequests:
    """Counts each request when it ends, under the path that its route was written with, so that names make no lines."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = LEFT

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self.metrics.num_running += 1
        try:
            await self.app(scope, receive, note_status)
        finally:
            self.metrics.num_running -= 1
            self.metrics.requests[known_method(scope["method"]), path_of(scope), status] += 1


def path_of(scope: Scope) -> str:
    """`/api/models/{name}`, once the request has been routed."""
    route = scope.get("route")
    if not isinstance(route, Route) or "endpoint" not in scope:
        return NO_ROUTE
    return str(scope.get("root_path", "")) + route.path.replace(":path}", "}")


def known_method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else NO_ROUTE


def _gauge(name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["model"])
    for model, value in values.items():
        family.add_metric([model], value)
    return family


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/metrics", "Counters and gauges for Prometheus", answer=str, media="text/plain", errors=()),
)
