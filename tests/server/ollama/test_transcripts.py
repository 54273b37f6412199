"""The transcripts of Ollama's own answers, line by line: the same fields, of the same types, in the same cases.

A value that differs from run to run is compared by its form: `…Z` is a time, 0 an integer, a text any text.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from ollama_calls import HELLO, OllamaCalls, ask

from myllm.errors import WorkerDied
from myllm.reply import Rendered
from myllm.server.ollama.render import ChatForm, GenerateForm, Lines
from myllm.types import Finished, FinishReason, ReasoningDelta, TextDelta, Usage

FILE = Path(__file__).parents[3] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
METRICS = {
    "total_duration": 0,
    "load_duration": 0,
    "prompt_eval_count": 0,
    "prompt_eval_duration": 0,
    "eval_count": 0,
    "eval_duration": 0,
}


def form(value: Any, key: str = "") -> Any:
    """What stays of an answer when all that differs from run to run is taken out."""
    if isinstance(value, dict):
        return {name: form(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [form(each) for each in value]
    if isinstance(value, str) and TIME.fullmatch(value):
        return "…Z"
    return 0 if isinstance(value, int) and not isinstance(value, bool) else value


def test_a_chat_streams_a_line_a_token_and_ends_with_the_metrics(ollama: OllamaCalls) -> None:
    lines = [form(line) for line in ollama.lines("chat", messages=ask("Hello!"))]

    token = {"model": "tiny", "created_at": "…Z", "message": {"role": "assistant", "content": "Hello"}, "done": False}
    assert lines[0] == token
    assert "".join(line["message"]["content"] for line in lines) == HELLO
    end = {"model": "tiny", "created_at": "…Z", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    assert lines[-1] == end | METRICS


def test_a_chat_without_streaming_is_the_last_line_with_the_whole_text(ollama: OllamaCalls) -> None:
    answer = form(ollama.answer("chat", messages=ask("Hello!")))

    message = {"role": "assistant", "content": HELLO}
    assert answer == {"model": "tiny", "created_at": "…Z", "message": message, "done": True, "done_reason": "stop"} | METRICS


def test_generate_streams_responses_and_ends_with_the_context(ollama: OllamaCalls) -> None:
    lines = [form(line) for line in ollama.lines("generate", prompt="Hello!")]

    assert lines[0] == {"model": "tiny", "created_at": "…Z", "response": "Hello", "done": False}
    context = lines[-1].pop("context")
    assert lines[-1] == {"model": "tiny", "created_at": "…Z", "response": "", "done": True, "done_reason": "stop"} | METRICS
    assert set(context) == {0}


def test_thoughts_are_told_beside_the_content() -> None:
    lines = Lines(ChatForm(), "qwen3")

    sent = lines.render(running(None), [ReasoningDelta("User greets")]) + lines.render(running(None), [TextDelta("Hello")])

    thought = {"role": "assistant", "content": "", "thinking": "User greets"}
    assert [form(msgspec.json.decode(line)) for line in sent.splitlines()] == [
        {"model": "qwen3", "created_at": "…Z", "message": thought, "done": False},
        {"model": "qwen3", "created_at": "…Z", "message": {"role": "assistant", "content": "Hello"}, "done": False},
    ]


def running(reason: FinishReason | None) -> Any:
    """What the lines are told of a run."""
    return SimpleNamespace(finish_reason=reason, usage=Usage(11, 18), rendered=Rendered(), context=[])


@pytest.mark.parametrize("form_of", [ChatForm, GenerateForm])
def test_a_stream_that_breaks_says_so_in_its_last_line(form_of: type[ChatForm | GenerateForm]) -> None:
    line = msgspec.json.decode(Lines(form_of(), "m").render_error(WorkerDied("CUDA error")))

    assert line["error"] == "an error was encountered while running the model: CUDA error"
    assert line["done"] is True and line["done_reason"] == "error" and line["model"] == "m"
    assert line.get("response") == "" or line["message"] == {"role": "assistant", "content": ""}


def test_events_without_text_make_no_line() -> None:
    assert Lines(ChatForm(), "m").render(running(None), [Finished(FinishReason.STOP, Usage())]) == b""


def test_load_ps_and_unload(own: OllamaCalls) -> None:
    own.unload_all()

    loads = [
        form(own.send("generate", {"model": "tiny"}).json()),
        form(own.send("chat", {"model": "tiny", "messages": []}).json()),
    ]
    ps = form(own.server.http.get("/ollama/api/ps").json())
    unload = form(own.send("generate", {"model": "tiny", "keep_alive": 0}).json())
    empty = own.server.http.get("/ollama/api/ps").json()

    message = {"message": {"role": "assistant", "content": ""}}
    told = {"model": "tiny", "created_at": "…Z", "done": True}
    assert loads == [told | {"response": "", "done_reason": "load"}, told | message | {"done_reason": "load"}]
    assert unload == told | {"response": "", "done_reason": "unload"}
    details = ps["models"][0].pop("details")
    assert ps == {
        "models": [
            {
                "name": "tiny:latest",
                "model": "tiny:latest",
                "size": 0,
                "digest": ps["models"][0]["digest"],
                "expires_at": "…Z",
                "size_vram": 0,
                "context_length": 0,
            }
        ]
    }
    assert {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"} <= set(details)
    assert empty == {"models": []}


def test_show_tells_what_clients_read(ollama: OllamaCalls) -> None:
    shown = ollama.send("show", {"model": "tiny"}).json()

    assert shown["modelfile"].startswith("# Modelfile generated by ") and "\nFROM tiny:latest\n" in shown["modelfile"]
    assert "temperature                    0.2" in shown["parameters"].split("\n")
    details = {key: shown["details"][key] for key in ("parent_model", "format", "family", "families", "parameter_size")}
    assert details == {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "5.05M"}
    info = shown["model_info"]
    keys = ("general.architecture", "llama.context_length", "llama.embedding_length", "llama.block_count", "tokenizer.ggml.tokens")
    assert [info[key] for key in keys] == ["llama", 2048, 256, 6, []]
    assert info["general.parameter_count"] == 5_049_600 and not {"general.name", "tokenizer.chat_template"} & set(info)
    assert shown["capabilities"][0] == "completion" and "tools" in shown["capabilities"] and TIME.fullmatch(shown["modified_at"])


def test_create_from_a_file_that_was_uploaded(own: OllamaCalls) -> None:
    digest = f"sha256:{hashlib.sha256(FILE.read_bytes()).hexdigest()}"
    own.server.http.post(f"/ollama/api/blobs/{digest}", content=FILE.read_bytes())

    body = {"model": "mine", "files": {"x.gguf": digest}, "parameters": {"num_ctx": 1024}, "system": "You are Marvin."}
    steps = [line["status"] for line in own.lines("create", **body)]
    again = own.send("create", {"model": "mine", "from": "tiny", "stream": False}).json()
    own.send("delete", {"model": "mine"}, "DELETE")

    texts = [step for step in steps if step.startswith("creating new layer sha256:")]
    assert steps == ["parsing GGUF", f"using existing layer {digest}", *texts, "writing manifest", "success"]
    assert len(texts) == 2
    assert again == {"status": "success"}
