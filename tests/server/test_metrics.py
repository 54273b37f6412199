"""What Prometheus is told: of requests, of what runs, and of tokens, also those of models that are gone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer, wait_until
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, ...], float]


def scraped(server: LiveServer) -> Samples:
    """Every sample by its name and its labels' values, in the order of their names."""
    response = server.http.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def grown(before: Samples, after: Samples, *key: str) -> float:
    return after[key] - before.get(key, 0)


@pytest.mark.parametrize(
    ("method", "path", "template", "status"),
    [
        ("GET", "/models", "/models", "200"),
        ("GET", "/api/models/tiny", "/api/models/{name}", "200"),
        ("GET", "/api/models/org/no:such", "/api/models/{name}", "404"),
        ("POST", "/chat/org/name", "/chat/{model}", "400"),
        ("DELETE", "/chat", "/chat", "405"),
        ("GET", "/no/such/path", "other", "404"),
        ("GET", "/api/no/such", "other", "404"),
        ("TRACE", "/", "/", "405"),
    ],
)
def test_a_request_counts_under_the_path_of_its_route(server: LiveServer, method: str, path: str, template: str, status: str) -> None:
    before = scraped(server)

    server.http.request(method, path)

    told = method if method != "TRACE" else "other"
    assert grown(before, scraped(server), "myllm_requests_total", told, template, status) == 1


def test_a_request_that_the_guard_refuses_counts_too(server: LiveServer) -> None:
    before = scraped(server)

    assert server.http.get("/models", headers={"host": "example.com"}).status_code == 403

    assert grown(before, scraped(server), "myllm_requests_total", "GET", "other", "403") == 1


def test_tokens_are_counted_as_the_engine_counts_them(server: LiveServer) -> None:
    before = scraped(server)

    usage = server.chat("Count to 10.")["usage"]

    after = scraped(server)
    assert grown(before, after, "myllm_generated_tokens_total", "tiny") == usage["completion_tokens"]
    assert grown(before, after, "myllm_cached_tokens_total", "tiny") == usage["cached_tokens"]
    assert grown(before, after, "myllm_prompt_tokens_total", "tiny") == usage["prompt_tokens"] - usage["cached_tokens"]


def test_what_runs_is_told_while_it_runs(endless: LiveServer) -> None:
    wait_until(lambda: scraped(endless)["myllm_requests_running",] == 1, "nothing runs but the question itself")
    body = {"model": "endless", "prompt": "Once", "stream": True}

    with httpx.stream("POST", f"{endless.url}/api/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()  # a loose one would close the stream
        next(lines)
        during = scraped(endless)

    assert during["myllm_sequences_running", "endless"] == 1 and during["myllm_sequences_waiting", "endless"] == 0
    assert during["myllm_requests_running",] == 2  # the stream, and the question itself
    assert 0 < during["myllm_cells_used", "endless"] <= during["myllm_cells_total", "endless"]
    assert during["myllm_models_loaded",] == 1 and during["myllm_memory_bytes", "endless"] > 1e6


def test_of_what_has_ended_nothing_is_told_any_more(endless: LiveServer) -> None:
    with httpx.stream("POST", f"{endless.url}/api/generate", json={"model": "endless", "prompt": "Once", "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)

    def is_quiet() -> bool:
        now = scraped(endless)
        gone = ("myllm_sequences_running", "myllm_tokens_per_second")
        return all(now[name, "endless"] == 0 for name in gone) and now["myllm_requests_running",] == 1

    wait_until(is_quiet, "the client's sequence and its request have ended")


def test_tokens_of_a_model_that_was_unloaded_are_not_forgotten(make_server: Callable[..., LiveServer]) -> None:
    live = make_server()
    generated = 0
    for _ in range(2):
        answer = live.post("/api/generate", model="tiny", prompt="Once", keep_alive=0, options={"max_tokens": 5}).json()
        generated += answer["usage"]["completion_tokens"]
        wait_until(lambda: not live.status(), "the model was unloaded")

    told = scraped(live)

    assert told["myllm_generated_tokens_total", "tiny"] == generated == 10
    assert told["myllm_model_loads_total",] == 2 and told["myllm_models_loaded",] == 0
    assert ("myllm_sequences_running", "tiny") not in told


def test_the_process_is_told_too(server: LiveServer) -> None:
    told = scraped(server)

    assert told["process_resident_memory_bytes",] > 1e6 and told["process_cpu_seconds_total",] > 0


def test_the_page_tells_every_metric_with_its_kind_and_its_labels(server: LiveServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| ", page, re.M)
    told = {name: (kind, sorted(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    server.chat("Hello!")

    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        if family.name.startswith("myllm_"):
            kind, labels = told.pop(family.name + ("_total" if family.type == "counter" else ""))
            assert kind == family.type and all(sorted(sample.labels) == labels for sample in family.samples)
    assert told == {}
