"""The examples of the gateway's own documentation, in curl, Python and JavaScript, run as they are printed.

Only the server's address is replaced: the models that they name are copies of the bundled one.
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

import pytest
from live_server import LiveServer

from myllm.store.catalog import Catalog, bundled_model
from myllm.store.store import Store

PAGE = (Path(__file__).parent / "localmodels.md").read_text()
PRINTED_URL = "http://localhost:8000"
NAMES = ("gpt-oss:20b", "qwen3:30b", "devstral", "gemma3")
BLOCKS = {language: re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) for language in ("bash", "python", "javascript")}
CURL = [block for block in BLOCKS["bash"] if block.startswith("curl")]
SCRIPTS = [block for block in BLOCKS["bash"] if not block.startswith("curl")]
SDK, *PYTHON = BLOCKS["python"]
SDK_PYTHON = Path(__file__).parents[3] / ".venv" / "clients" / "python" / "bin" / "python"


@pytest.fixture(scope="module")
def localmodels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    store = Store(home, bundled=bundled_model(), catalog=Catalog.load())
    for name in NAMES:
        store.copy("tiny", name)
    live = LiveServer(home, MYLLM_DEFAULT_MODEL=NAMES[0])
    yield live
    live.stop()


def run(program: list[str], source: str, server: LiveServer) -> str:
    assert PRINTED_URL in source
    for needed in (program[0], *re.findall(r"\b(curl|jq)\b", source)):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    source = source.replace(PRINTED_URL, server.url)
    done = subprocess.run(program, input=source, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chat_answers(output: str) -> Iterator[dict[str, object]]:
    """What a curl command printed: an answer, or the last event of a stream."""
    events = [json.loads(line.removeprefix("data: ")) for line in output.splitlines() if line]
    assert all(isinstance(event["token"], str) and event["done"] is False for event in events[:-1])
    yield events[-1]


@pytest.mark.parametrize("block", [block for block in CURL if "/chat" in block and "/v1/" not in block])
def test_a_printed_chat_is_answered(localmodels: LiveServer, block: str) -> None:
    (answer,) = chat_answers(run(["bash", "-eu"], block, localmodels))

    named = re.search(r'"model": "(.*?)"|/chat/([\w-]+)', block)
    assert answer["model"] == (named[1] or named[2] if named else NAMES[0])
    assert isinstance(answer["response"], str) and set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}  # type: ignore[call-overload]
    assert ("done" in answer) == ("stream" in block)


@pytest.mark.parametrize("block", [block for block in CURL if "/v1/" in block])
def test_a_printed_request_to_v1_is_answered(localmodels: LiveServer, block: str) -> None:
    answer = json.loads(run(["bash", "-eu"], block, localmodels))

    assert answer["model"] == NAMES[0] and answer["usage"]["prompt_tokens"] > 0
    assert answer["object"] == ("list" if "embeddings" in block else "chat.completion")


def test_the_printed_questions_about_the_system_are_answered(localmodels: LiveServer) -> None:
    root, health, models = (json.loads(run(["bash", "-eu"], block, localmodels)) for block in CURL if "-X" not in block)

    assert set(root) >= {"message", "default_model", "available_models", "ollama_url", "endpoints"}
    assert root["available_models"]["devstral"].keys() == {"name", "description", "provider", "litellm_name"}
    assert set(root["endpoints"]) >= {"chat", "chat_with_model", "chat_litellm", "embeddings", "health", "models"}
    assert health["status"] == "healthy" and health["ollama_service"] == "up" and health["litellm_enabled"] is True
    assert root["default_model"] == health["default_model"] == NAMES[0]
    assert set(NAMES) < set(health["available_models"]) == set(root["available_models"])
    assert set(NAMES) < {model["name"] for model in models["models"]}


@pytest.mark.parametrize("model", ["gpt-oss", "qwen3", "devstral", "gemma3"])
def test_every_model_of_the_document_has_its_path(localmodels: LiveServer, model: str) -> None:
    answer = localmodels.post(f"/chat/{model}", message="Hola", max_tokens=2).json()

    assert answer["model"] in NAMES and answer["model"].startswith(model)


def test_the_printed_python_of_the_openai_sdk_prints_an_answer(localmodels: LiveServer) -> None:
    python = next((python for python in (str(SDK_PYTHON), sys.executable) if has_openai(python)), None)
    if python is None:
        pytest.skip("the openai package is not installed: python scripts/install_clients.py")

    assert run([python, "-"], SDK, localmodels).strip()


def has_openai(python: str) -> bool:
    return (
        shutil.which(python) is not None
        and subprocess.run([python, "-c", "import openai"], capture_output=True, check=False).returncode == 0
    )


def test_the_printed_python_prints_answers(localmodels: LiveServer) -> None:
    if importlib.util.find_spec("requests") is None:
        pytest.skip("requests is not installed")
    simple, client, comparison = PYTHON

    assert run([sys.executable, "-"], simple, localmodels).endswith("\n")
    compared = run([sys.executable, "-"], client + comparison, localmodels)  # the second uses what the first defines
    assert re.findall(r"^(\S+): (\w+)$", compared, re.M) == [(model, "success") for model in ("gpt-oss:20b", "devstral", "gemma3")]


@pytest.mark.parametrize("block", BLOCKS["javascript"])
def test_the_printed_javascript_prints_an_answer(localmodels: LiveServer, block: str) -> None:
    assert run(["node", "--input-type=module"], block, localmodels).endswith("\n")


@pytest.mark.parametrize("block", SCRIPTS)
def test_the_printed_script_tests_each_model(localmodels: LiveServer, block: str) -> None:
    lines = run(["bash"], block, localmodels).splitlines()

    tested = [line for line in lines if line.startswith("Testing")]
    responses = [json.loads(line) for line in lines if not line.startswith(("Testing", "---"))]
    assert tested == [f"Testing {model}..." for model in ("gpt-oss:20b", "devstral", "gemma3")]
    assert len(responses) == 3 and all(isinstance(response, str) for response in responses)


def test_the_document_has_what_these_tests_run() -> None:
    assert (len(CURL), len(SCRIPTS), len(PYTHON), len(BLOCKS["javascript"])) == (9, 1, 3, 1)
