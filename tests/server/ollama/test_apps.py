"""The calls that programs made for Ollama make, in their order and with their bodies, and what each reads of the answers."""

from __future__ import annotations

import json
import re
from typing import Any

from ollama_calls import HELLO, OllamaCalls, ask


def test_open_webui_looks_around_chats_and_embeds(ollama: OllamaCalls) -> None:
    http = ollama.server.http
    version = http.get("/ollama/api/version").json()["version"]
    models = http.get("/ollama/api/tags").json()["models"]
    running = http.get("/ollama/api/ps").json()["models"]
    shown = http.post("/ollama/api/show", json={"model": models[0]["model"]}).json()

    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert all({"name", "model", "digest", "size", "modified_at", "details"} <= set(model) for model in models)
    assert all(isinstance(model["size_vram"], int) and model["expires_at"] for model in running) and shown["details"]

    body = {"model": "tiny:latest", "messages": ask("Hello!"), "options": {"temperature": 0}, "stream": True, "keep_alive": "5m"}
    with http.stream("POST", "/ollama/api/chat", json=body) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    usage = lines[-1]
    assert "".join(line["message"]["content"] for line in lines) == HELLO
    assert (
        usage["eval_count"] / (usage["eval_duration"] / 1e9) > 0 and usage["prompt_eval_count"] / (usage["prompt_eval_duration"] / 1e9) > 0
    )

    embedded = http.post("/ollama/api/embed", json={"model": "tiny:latest", "input": ["one", "two"], "truncate": True}).json()
    assert len(embedded["embeddings"]) == 2


def test_copilot_wants_a_version_capabilities_and_the_openai_api_beside_it(ollama: OllamaCalls) -> None:
    http, agent = ollama.server.http, {"user-agent": "GitHubCopilotChat/0.40.0"}
    version = [int(part) for part in http.get("/ollama/api/version", headers=agent).json()["version"].split(".")]
    names = [model["model"] for model in http.get("/ollama/api/tags", headers=agent).json()["models"]]
    shown = http.post("/ollama/api/show", json={"model": names[0]}, headers=agent).json()

    info = shown["model_info"]
    assert version >= [0, 6, 4] and info["general.basename"] == names[0] == "tiny:latest"
    assert info[f"{info['general.architecture']}.context_length"] == 2048 and "tools" in shown["capabilities"]

    body: dict[str, Any] = {"model": names[0], "messages": ask("Hello!"), "stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", "/ollama/v1/chat/completions", json=body | {"temperature": 0}, headers=agent) as response:
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    chunks = [json.loads(each) for each in data[:-1]]
    assert data[-1] == "[DONE]" and "".join(choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]) == HELLO


def test_others_see_the_name_that_is_in_the_file(ollama: OllamaCalls) -> None:
    info = ollama.send("show", {"model": "tiny"}).json()["model_info"]

    assert info.get("general.basename") != "tiny"


def test_continue_reads_parameters_chats_and_completes_code(ollama: OllamaCalls) -> None:
    http, headers = ollama.server.http, {"content-type": "application/json", "authorization": "Bearer unused"}
    shown = http.post("/ollama/api/show", json={"name": "tiny"}, headers=headers).json()
    for line in shown["parameters"].split("\n"):
        assert re.match(r'^(\S+)\s+((?:".*")|\S+)$', line), line

    options = {"temperature": 0, "num_predict": 64, "stop": ["<|endoftext|>", "\n\n\n"], "num_ctx": 2048}
    common = {"model": "tiny", "options": options, "keep_alive": 1800, "stream": True}
    chat = http.post("/ollama/api/chat", json=common | {"messages": ask("Hello!")}, headers=headers)
    filled = http.post("/ollama/api/generate", json=common | {"prompt": "def add(a, b):\n    return ", "suffix": "\n"}, headers=headers)
    raw = http.post("/ollama/api/generate", json=common | {"prompt": "Once upon a time", "raw": True}, headers=headers)
    embedded = http.post("/ollama/api/embed", json={"model": "tiny", "input": ["one"]}, headers=headers).json()

    assert "".join(json.loads(line)["message"]["content"] for line in chat.text.splitlines()) == HELLO
    assert "".join(json.loads(line)["response"] for line in filled.text.splitlines()) == "a + b"
    assert json.loads(raw.text.splitlines()[-1])["eval_count"] == 64
    assert len(embedded["embeddings"][0]) == 256


def test_the_command_line_knocks_runs_and_stops(own: OllamaCalls) -> None:
    """`ollama run tiny`, a question, `ollama ps`, `ollama stop tiny`: what the Go client sends."""
    http = own.server.http
    assert http.head("/ollama/").status_code == 200
    assert http.post("/ollama/api/show", json={"model": "tiny", "name": "tiny"}).status_code == 200
    load = http.post("/ollama/api/generate", json={"model": "tiny", "prompt": "", "options": None, "keep_alive": None, "think": None})
    question = {"model": "tiny", "messages": ask("Hello!"), "format": "", "options": {"temperature": 0}, "truncate": None}
    lines = [json.loads(line) for line in http.post("/ollama/api/chat", json=question).text.splitlines()]
    running = http.get("/ollama/api/ps").json()["models"][0]
    stop = http.post("/ollama/api/generate", json={"model": "tiny", "prompt": "", "keep_alive": 0})

    assert load.json()["done_reason"] == "load" and lines[-1]["done"] is True
    assert len(running["digest"]) >= 12 and running["size"] > 0
    assert stop.json()["done_reason"] == "unload"
