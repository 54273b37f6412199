"""Calls of OpenAI's dialect for tests: the answer where it is right, the error where one is due, the chunks of a stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from live_server import LiveServer
from typed_answers import assert_is

from myllm.server.openai.answers import ChatAnswer, ChatChunk, CompletionAnswer, CompletionChunk
from myllm.server.openai.errors import ErrorAnswer

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"
KINDS: dict[str, tuple[Any, Any]] = {"/chat/completions": (ChatAnswer, ChatChunk), "/completions": (CompletionAnswer, CompletionChunk)}


@dataclass
class Streamed:
    """What a stream's chunks come to, by choice."""

    chunks: list[dict[str, Any]]
    texts: list[str]
    reasons: list[str]
    logprobs: list[Any]

    @property
    def usage(self) -> dict[str, Any]:
        """Of the last chunk, and of no other."""
        assert self.chunks[-1]["choices"] == [] and all(chunk["usage"] is None for chunk in self.chunks[:-1])
        usage: dict[str, Any] = self.chunks[-1]["usage"]
        return usage


class Calls:
    """Answers are held against the types that the reference tells of them. What is asked goes to tiny, unless it says otherwise."""

    def __init__(self, server: LiveServer, prefix: str = "/v1", model: str = "tiny") -> None:
        self.server = server
        self.prefix = prefix
        self.model = model

    def post(self, path: str, **body: Any) -> Any:
        return self.server.http.post(self.prefix + path, json={"model": self.model} | body)

    def whole(self, path: str, **body: Any) -> dict[str, Any]:
        response = self.post(path, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        assert_is(KINDS[path][0], answer)
        return answer

    def chat(self, content: str = "Hello!", **body: Any) -> dict[str, Any]:
        """At temperature 0, unless it says otherwise."""
        return self.whole("/chat/completions", **{**asked(content), "temperature": 0} | body)

    def say(self, content: str = "Hello!", **body: Any) -> str:
        text: str = self.chat(content, **body)["choices"][0]["message"]["content"]
        return text

    def complete(self, prompt: Any = "Once upon a time", **body: Any) -> dict[str, Any]:
        return self.whole("/completions", prompt=prompt, **{"temperature": 0} | body)

    def text(self, prompt: Any = "Once upon a time", **body: Any) -> str:
        text: str = self.complete(prompt, **body)["choices"][0]["text"]
        return text

    def stream(self, path: str, **body: Any) -> Streamed:
        response = self.post(path, stream=True, **body)
        assert response.status_code == 200, response.text
        *events, done, end = response.text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "") and all(event.startswith("data: {") for event in events)
        return streamed(path, [json.loads(event.removeprefix("data: ")) for event in events])

    def error(self, path: str, status: int = 400, **body: Any) -> dict[str, Any]:
        response = self.post(path, **body)
        assert response.status_code == status, response.text
        assert_is(ErrorAnswer, response.json())
        error: dict[str, Any] = response.json()["error"]
        return error


def asked(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def streamed(path: str, chunks: list[dict[str, Any]]) -> Streamed:
    """Each choice put together, and its chunks held against the order that clients expect."""
    for chunk in chunks:
        assert_is(KINDS[path][1], chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    choices = [[choice for choice in told if choice["index"] == index] for index in range(1 + max(choice["index"] for choice in told))]
    for of_one in choices:
        assert [choice["finish_reason"] is None for choice in of_one] == [True] * (len(of_one) - 1) + [False]
        if path == "/chat/completions":
            assert of_one[0]["delta"] == {"role": "assistant", "content": ""} and of_one[-1]["delta"] == {}
            assert all(choice["delta"].keys() == {"content"} for choice in of_one[1:-1])
    return Streamed(
        chunks,
        ["".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in of_one) for of_one in choices],
        [of_one[-1]["finish_reason"] for of_one in choices],
        [put_together([choice["logprobs"] for choice in of_one if choice["logprobs"]]) for of_one in choices],
    )


def put_together(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The lists of several log probabilities, one after the other; None where there are none."""
    if not parts:
        return None
    names = [name for name, values in parts[0].items() if values is not None]
    return dict.fromkeys(parts[0]) | {name: [value for part in parts for value in part[name]] for name in names}
