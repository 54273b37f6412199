"""The examples of the documents whose APIs this dialect serves, run as they are printed; only the server's address is replaced.

The models that they name are copies of the bundled one. An answer has every field that the printed one has, of its type.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer

from myllm.store.catalog import Catalog, bundled_model
from myllm.store.store import Store

PAGE = (Path(__file__).parent / "printed.txt").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
PRINTED_ADDRESSES = ("localhost:8000", "vllm.archon-system.svc.cluster.local:8000")
NAMES = (
    *("meta-llama/Llama-2-7b-chat-hf", "text-embedding-ada-002", "Qwen/Qwen2.5-Coder-14B-Instruct-GPTQ-Int4"),
    *("Mistral-Small", "Devstral-Small-2507"),
)
SDK_PYTHON = Path(__file__).parents[3] / ".venv" / "clients" / "python" / "bin" / "python"


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[title], re.M | re.S)


GETS = [title for title in SECTIONS if " GET /" in title]
POSTS = [title for title in SECTIONS if " POST /" in title and "streamed" not in title]
STREAMS = [title for title in SECTIONS if "streamed" in title]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    store = Store(home, bundled=bundled_model(), catalog=Catalog.load())
    for name in NAMES:
        store.copy("tiny", name)
    live = LiveServer(home)
    yield live
    live.stop()


def example(text: str) -> Any:
    """Printed JSON; an ellipsis in a list stands for more of the same."""
    return json.loads(text.replace(", ...]", "]"))


def assert_has(shown: Any, answer: Any, name: str = "the answer") -> None:
    """Every field that is shown is there, and what it holds is of the type that is shown, or null where that is."""
    if isinstance(shown, dict):
        assert isinstance(answer, dict) and shown.keys() <= answer.keys(), name
        for key in shown:
            assert_has(shown[key], answer[key], key)
    elif isinstance(shown, list):
        assert isinstance(answer, list) and (answer or not shown), name
        for each in answer:
            assert_has(shown[0], each, name)
    else:
        assert type(shown) is type(answer), f"{name}: {shown!r} is shown and {answer!r} came"
        assert name not in ("object", "role", "model", "type") or shown == answer


@pytest.mark.parametrize("title", GETS)
def test_a_printed_list_or_model_is_answered(printed: LiveServer, title: str) -> None:
    answer = printed.http.get(title.split(" GET ")[1]).json()

    (shown,) = map(example, blocks(title, "json"))
    assert_has(shown, answer)
    listed = {model["id"] for model in answer.get("data", [answer])}
    assert {model["id"] for model in shown.get("data", [shown])} <= listed


@pytest.mark.parametrize("title", POSTS)
def test_a_printed_request_gets_an_answer_like_the_printed_one(printed: LiveServer, title: str) -> None:
    request, shown = map(example, blocks(title, "json"))

    response = printed.http.post(title.split(" POST ")[1], json=request)

    assert response.status_code == shown.get("error", {}).get("code", 200)
    assert_has(shown, response.json())
    if "error" in shown:
        assert response.json()["error"].items() >= shown["error"].items()


@pytest.mark.parametrize("title", STREAMS)
def test_a_printed_stream_is_streamed(printed: LiveServer, title: str) -> None:
    (request,), (shown,) = map(example, blocks(title, "json")), blocks(title, "text")

    events = printed.http.post(title.split(" POST ")[1].removesuffix(", streamed"), json=request).text.strip().split("\n\n")

    first, *_, done = shown.strip().split("\n\n")
    assert events[-1] == done == "data: [DONE]" and len(events) > 5
    like = json.loads(first.removeprefix("data: ")) | {"object": "chat.completion.chunk" if "chat" in title else "text_completion"}
    for event in events[:1] if "chat" in title else events[:-2]:
        assert_has(like, json.loads(event.removeprefix("data: ")))


def run(program: list[str], source: str, server: LiveServer) -> str:
    assert any(address in source for address in PRINTED_ADDRESSES)
    for needed in (program[0], *re.findall(r"^(curl)\b", source, re.M)):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    for address in PRINTED_ADDRESSES:
        source = source.replace(address, server.url.removeprefix("http://"))
    done = subprocess.run(program, input=source, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMANDS = [
    command
    for title in ("Inferneo: clients", "vLLM: clients")
    for block in blocks(title, "bash")
    for command in re.findall(r"^curl .*?(?=\n\n|\Z)", block, re.M | re.S)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_is_answered(printed: LiveServer, command: str) -> None:
    output = run(["bash", "-eu"], command, printed)

    if '"stream": true' in command:
        assert output.startswith("data: {") and output.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(output)["object"] in ("list", "text_completion", "chat.completion")


def test_the_printed_python_prints_both_answers(printed: LiveServer) -> None:
    if importlib.util.find_spec("requests") is None:
        pytest.skip("requests is not installed")
    (source,) = blocks("Inferneo: clients", "python")

    assert run([sys.executable, "-"], source, printed).count("\n") >= 2


def test_the_printed_python_of_the_openai_sdk_prints_an_answer(printed: LiveServer) -> None:
    python = next((python for python in (str(SDK_PYTHON), sys.executable) if has_openai(python)), None)
    if python is None:
        pytest.skip("the openai package is not installed: python scripts/install_clients.py")
    (source,) = blocks("vLLM: clients", "python")

    assert run([python, "-"], source, printed).strip()


def has_openai(python: str) -> bool:
    asked = [python, "-c", "import openai"]
    return shutil.which(python) is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0


def test_the_printed_javascript_prints_both_answers(printed: LiveServer) -> None:
    (source,) = blocks("Inferneo: clients", "javascript")

    assert run(["node", "--input-type=module"], source, printed).count("\n") >= 2


def test_the_printed_websocket_prints_the_answer_piece_by_piece(printed: LiveServer) -> None:
    """It is left open as printed, so what closes it when the answer is done is added."""
    (source,) = blocks("Inferneo: WebSocket", "javascript")
    closing = "\nws.addEventListener('message', event => { if (JSON.parse(event.data).done) ws.close(); });"

    assert run(["node", "--experimental-websocket", "--no-warnings"], source + closing, printed).count("\n") > 5


def test_the_documents_have_what_these_tests_run() -> None:
    assert (len(GETS), len(POSTS), len(STREAMS), len(COMMANDS)) == (6, 13, 2, 6)
