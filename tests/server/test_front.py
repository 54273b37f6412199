"""The front door: what `/` and `/health` tell, to whom, and when."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from live_server import LiveServer, wait_until
from typed_answers import assert_is
from websockets.sync.client import connect

from myllm.server.front import HealthAnswer, RootAnswer, prefers_html
from myllm.server.tags import parameter_size
from myllm.store.catalog import bundled_model

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def test_root_tells_what_runs_and_which_models(server: LiveServer) -> None:
    answer = server.http.get("/").json()

    assert_is(RootAnswer, answer)
    assert (answer["name"], answer["status"], answer["default_model"]) == ("MyLLM", "running", "tiny")
    assert answer["models_available"] == len(answer["available_models"])
    assert answer["available_models"]["tiny"] == {
        "name": "tiny",
        "description": "myllm-tiny, 5.05M parameters, Q4_K_M",
        "provider": "ollama",
        "litellm_name": "ollama/tiny",
    }
    assert answer["ollama_url"] == f"{server.url}/ollama"


def test_the_endpoints_that_root_names_are_served(server: LiveServer) -> None:
    endpoints = server.http.get("/").json()["endpoints"]

    assert endpoints["chat_with_model"] == "/chat/{model_name}"
    for path in endpoints.values():
        assert server.http.options(path.replace("{model_name}", "tiny")).status_code in (200, 405), path


def test_the_ollama_url_is_the_dialects_own_port_where_it_has_one(make_server: Callable[..., LiveServer]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    live = make_server("--ollama-port", str(port))

    assert live.http.get("/").json()["ollama_url"] == f"http://127.0.0.1:{port}"


def test_health_tells_the_gateways_fields(server: LiveServer) -> None:
    response = server.http.get("/health")

    assert_is(HealthAnswer, response.json())
    assert response.status_code == 200
    assert response.json() == {
        "status": "healthy",
        "ollama_service": "up",
        "default_model": "tiny",
        "available_models": ["tiny"],
        "litellm_enabled": True,
    }


def test_a_server_that_stops_is_draining_until_its_answers_have_ended(make_endless: Callable[..., LiveServer]) -> None:
    """The answer is one over a WebSocket: for those the listener stays open, so that what comes meanwhile is told."""
    live = make_endless()
    body = {"model": "endless", "messages": [{"role": "user", "content": "Write a very long story."}]}

    with connect(live.url.replace("http://", "ws://") + "/v1/chat/completions") as talk:
        talk.send(json.dumps(body))
        talk.recv(60)
        live.process.terminate()
        health = wait_until(lambda: (answer := live.http.get("/health")).status_code == 503 and answer, "the server drains")
        metrics, refused = live.http.get("/metrics"), live.http.get("/models")
        following = [json.loads(talk.recv(60)) for _ in range(100)]

    assert (health.json()["status"], health.json()["ollama_service"]) == ("draining", "down")
    assert metrics.status_code == 200 and refused.status_code == 503 and "stopping" in refused.json()["detail"]
    assert all(message["choices"] for message in following) and live.process.wait(60) == 0


class Text(HTMLParser):
    """The words of a page, and where its links lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words = ""
        self.links: list[str | None] = []
        self.loaded: list[str | None] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self.links.append(given.get("href"))
        self.loaded += [given[name] for name in ("src", "srcset", "data") if name in given] + ([given.get("href")] if tag == "link" else [])


def test_a_browser_gets_a_page_that_loads_nothing_from_elsewhere(server: LiveServer) -> None:
    response = server.http.get("/", headers={"accept": BROWSER})

    text = Text(response.text)
    assert response.headers["content-type"] == "text/html; charset=utf-8" and "accept" in response.headers["vary"].lower()
    assert "MyLLM is running" in text.words and "tiny" in text.words
    assert text.links == ["/docs", "/openapi.json"] and text.loaded == []
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_a_models_name_cannot_put_markup_into_the_page(make_server: Callable[..., LiveServer]) -> None:
    live = make_server()
    folder = live.home / "models" / "<img src=x>"
    folder.mkdir(parents=True)
    (folder / "evil.gguf").write_bytes(bundled_model().read_bytes())

    response = live.http.get("/", headers={"accept": BROWSER})

    assert "&lt;img src=x&gt;/evil" in response.text and "<img" not in response.text


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("text/html;q=0.9, application/json;q=0.8", True),
        ("text/html, application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("*/*", False),
        ("text/*", False),
        ("text/html;q=0", False),
        ("text/html;q=much", False),
        ("", False),
        (",;=,q", False),
    ],
)
def test_html_is_for_those_who_prefer_it(accept: str, is_html: bool) -> None:
    assert prefers_html(accept) is is_html


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (20_800_000_000, "20.8B"),
        (8_030_261_312, "8.0B"),
        (7 * 10**9, "7B"),
        (494_032_768, "494.03M"),
        (137 * 10**6, "137M"),
        (12_345, "12K"),
        (999, "999"),
    ],
)
def test_the_number_of_parameters_is_told_as_ollama_rounds_it(count: int, told: str) -> None:
    assert parameter_size(count) == told
