"""Calls of the Ollama dialect for tests: whole answers, and streams as their lines, each held against Ollama's rules."""

from __future__ import annotations

import json
from typing import Any

import httpx
from live_server import LiveServer, wait_until

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
NDJSON, JSON = "application/x-ndjson", "application/json; charset=utf-8"


class OllamaCalls:
    """What is asked goes to tiny at temperature 0, unless it says otherwise."""

    def __init__(self, server: LiveServer, prefix: str = "/ollama/api") -> None:
        self.server = server
        self.prefix = prefix

    def send(self, path: str, body: dict[str, Any] | str, method: str = "POST") -> httpx.Response:
        """As it is; as curl's `-d` sends it, with the content type of a form."""
        content = body if isinstance(body, str) else json.dumps(body)
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return self.server.http.request(method, f"{self.prefix}/{path}", content=content, headers=headers)

    def answer(self, path: str, **body: Any) -> dict[str, Any]:
        """Without streaming."""
        response = self.send(path, with_defaults(body) | {"stream": False})
        assert (response.status_code, response.headers["content-type"]) == (200, JSON), response.text
        answer: dict[str, Any] = response.json()
        return answer

    def lines(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """A stream's lines. Each ends with a line feed, none is blank, and the last is the one that says so."""
        response = self.send(path, with_defaults(body))
        assert (response.status_code, response.headers["content-type"]) == (200, NDJSON), response.text
        assert response.text.endswith("\n") and "" not in response.text.removesuffix("\n").split("\n")
        lines: list[dict[str, Any]] = [json.loads(line) for line in response.text.splitlines()]
        assert [line.get("done", line.get("status") == "success") for line in lines] == [False] * (len(lines) - 1) + [True]
        return lines

    def error(self, path: str, body: dict[str, Any] | str, method: str = "POST") -> tuple[int, str]:
        """The status and the words of a refusal."""
        response = self.send(path, body, method)
        assert response.headers["content-type"] == JSON and list(response.json()) == ["error"], response.text
        return response.status_code, response.json()["error"]

    def names(self) -> list[str]:
        return [model["name"] for model in self.server.http.get(f"{self.prefix}/tags").json()["models"]]

    def loaded(self, name: str = "tiny:latest") -> dict[str, Any] | None:
        """The model's line of `ps`."""
        models = self.server.http.get(f"{self.prefix}/ps").json()["models"]
        return next((model for model in models if model["name"] == name), None)

    def unload_all(self) -> None:
        """Returns when nothing is loaded and no worker runs."""
        for model in self.server.http.get(f"{self.prefix}/ps").json()["models"]:
            self.send("generate", {"model": model["name"], "keep_alive": 0})
        wait_until(lambda: self.server.worker_pids() == [], "no worker runs")


def with_defaults(body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "tiny", **body, "options": {"temperature": 0} | body.get("options", {})}


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
