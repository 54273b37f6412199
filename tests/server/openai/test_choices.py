"""Several answers to one request, on a server whose operator gave the model a seed and its queue little room: 2 run, 2 wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live_server import LiveServer
from openai_calls import Calls, asked

CHAT, COMPLETIONS = "/chat/completions", "/completions"
SETTINGS = """
parallel = 2
queue_size = 2
[models.tiny]
seed = 42
"""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    file = tmp_path_factory.mktemp("settings") / "config.toml"
    file.write_text(SETTINGS)
    live = LiveServer(tmp_path_factory.mktemp("home"), "--config", str(file))
    yield Calls(live)
    live.stop()


@pytest.mark.parametrize("body", [asked("Tell me a story about a fox."), {"prompt": "Once upon a time"}], ids=["chat", "completion"])
def test_choices_differ_also_where_the_model_has_a_seed_of_its_own(narrow: Calls, body: dict[str, Any]) -> None:
    path = COMPLETIONS if "prompt" in body else CHAT

    choices = narrow.whole(path, **body, n=4, temperature=2, max_tokens=20)["choices"]

    assert len({choice["text"] if "text" in choice else choice["message"]["content"] for choice in choices}) == 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**asked("Hello!"), "n": 5}),
        (CHAT, {**asked("Hello!"), "n": 5, "stream": True}),
        (CHAT, {**asked("Hello!"), "n": 2, "best_of": 5}),
        (COMPLETIONS, {"prompt": ["Hello!"] * 5}),
    ],
    ids=["n", "streamed", "best_of", "prompts"],
)
def test_more_answers_than_can_run_and_wait_are_refused_for_good(narrow: Calls, path: str, body: dict[str, Any]) -> None:
    error = narrow.error(path, 400, **body)

    assert error["param"] == "n" and "asks for 5 answers" in error["message"] and "takes 4 at once" in error["message"]
    assert "queue_size" in error["message"] and narrow.chat(max_tokens=1)
