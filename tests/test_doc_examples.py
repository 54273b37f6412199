"""Every example of every page of the documentation is run, against a real server, and prints what the page shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_examples import BASE_URL, Example, differences, examples, is_like, run
from live_server import LiveServer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "architecture"}
EXAMPLES = [pytest.param(example, id=f"{page}-{example.line}-{example.language}") for page in PAGES for example in examples(PAGES[page])]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("home"))
    live.http.post("/api/models/tiny/load").raise_for_status()
    yield live
    live.stop()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_the_page_shows(server: LiveServer, tmp_path: Path, example: Example) -> None:
    assert BASE_URL in example.source and example.output_language in ("json", "text")

    output = run(example, server.url, tmp_path)

    if example.output_language == "json":
        assert list(differences(json.loads(example.output), json.loads(output))) == []
    else:
        assert is_like(example.output, output), output


@pytest.mark.parametrize("command", re.findall(r"^curl .*", README, re.M))
def test_a_curl_command_of_the_readme_gets_an_answer(server: LiveServer, tmp_path: Path, command: str) -> None:
    answer = json.loads(run(Example(0, "bash", command.replace("curl ", "curl -s "), "", ""), server.url, tmp_path))

    assert BASE_URL in command
    assert answer["message"]["content"] and answer["finish_reason"] == "stop"


def test_the_readme_has_a_first_answer() -> None:
    assert len(re.findall(r"^curl .*", README, re.M)) >= 1


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"cached_tokens": 1}, {"cached_tokens": "1"}),
        ({"expires_at": 1.5}, {"expires_at": None}),
        ([1], [1, 2]),
        ({"a": "x…z"}, {"a": "xy"}),
        ({"a": True}, {"a": "true"}),
    ],
)
def test_an_answer_that_differs_from_the_page_is_noticed(shown: Any, came: Any) -> None:
    assert len(list(differences(shown, came))) == 1


def test_an_answer_may_differ_where_the_page_says_so() -> None:
    shown = {"cached_tokens": 1, "id": "…", "at": "…Z", "embeddings": [1.5], "n": [1, {"budget": None}]}
    came = {"cached_tokens": 7, "id": "abc", "at": "2026Z", "embeddings": [0.1, 0.2], "n": [1, {"budget": None}]}

    assert list(differences(shown, came)) == []
