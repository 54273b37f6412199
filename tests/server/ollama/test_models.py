from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from float_models import write_float_model
from hub_server import HubServer
from live_server import LiveServer
from ollama_calls import HELLO, OllamaCalls, ask

from myllm.server.ollama.making import PullLines
from myllm.server.ollama.names import full_name, shown_name
from myllm.store.catalog import bundled_model
from myllm.store.pull_progress import Progress

CONTENT = bundled_model().read_bytes()
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub = HubServer()
    hub.add("org/Small-GGUF", "small-Q4_K_M.gguf", CONTENT)
    yield hub
    hub.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def pulling(hub: HubServer, make_server: Callable[..., LiveServer]) -> OllamaCalls:
    return OllamaCalls(make_server(HF_ENDPOINT=hub.url))


def test_the_root_and_the_version_are_ollamas(ollama: OllamaCalls) -> None:
    http = ollama.server.http
    root, head, version = http.get("/ollama/"), http.head("/ollama/"), http.get("/ollama/api/version").json()

    assert (root.text, root.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
    assert (head.status_code, head.text) == (200, "")
    assert [int(part) for part in version["version"].split(".")] >= [0, 6, 4]  # what VS Code wants at least
    assert http.get("/ollama", follow_redirects=True).text == "Ollama is running"


def test_there_is_no_cloud_behind_it(ollama: OllamaCalls) -> None:
    assert ollama.server.http.get("/ollama/api/status").json() == {"cloud": {"disabled": True, "source": "config"}}
    assert ollama.error("signout", {}) == (401, "unauthorized")


def test_models_are_listed_with_a_tag_and_a_bare_digest(ollama: OllamaCalls) -> None:
    tags = ollama.server.http.get("/ollama/api/tags").json()

    tiny = next(model for model in tags["models"] if model["name"] == "tiny:latest")
    assert tiny["model"] == "tiny:latest" and tiny["size"] == len(CONTENT) and tiny["modified_at"].endswith("Z")
    assert len(tiny["digest"]) == 64 and int(tiny["digest"], 16)
    assert tiny["capabilities"] == ["completion", "tools", "insert", "thinking"]
    assert tiny["details"]["quantization_level"] == "Q4_K_M" and tiny["details"]["context_length"] == 2048
    assert ollama.server.http.head("/ollama/api/tags").status_code == 200


def test_a_model_is_told_by_what_it_is_made_for(own: OllamaCalls) -> None:
    tags = own.server.http.get("/ollama/api/tags").json()["models"]

    can = {model["name"]: model["capabilities"] for model in tags}
    assert can["bert:latest"] == ["embedding"] and can["plain:latest"] == ["completion"]


def test_a_template_that_was_given_says_what_a_model_is_told_to_do(own: OllamaCalls) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    own.answer("create", **{"from": "tiny", "model": "silent", "template": template})

    http = own.server.http
    shown = own.answer("show", model="silent")["capabilities"]
    listed = next(each for each in http.get("/ollama/api/tags").json()["models"] if each["name"] == "silent:latest")["capabilities"]
    tagged = next(each for each in http.get("/models").json()["models"] if each["name"] == "silent")["capabilities"]
    native = http.get("/api/models/silent").json()["capabilities"]
    refused = own.error("chat", {"model": "silent", "messages": ask("Hello!"), "think": True})
    own.send("delete", {"model": "silent"}, "DELETE")

    assert shown == listed == ["completion", "insert"]
    assert tagged == native == ["completion", "chat", "insert", "embeddings"]
    assert refused == (400, '"silent" does not support thinking')


@pytest.mark.parametrize(
    ("name", "shown", "full"),
    [
        ("tiny", "tiny:latest", "registry.ollama.ai/library/tiny:latest"),
        ("qwen3:8b", "qwen3:8b", "registry.ollama.ai/library/qwen3:8b"),
        ("org/repo:Q4_K_M", "org/repo:Q4_K_M", "registry.ollama.ai/org/repo:Q4_K_M"),
        ("host:5000/x", "host:5000/x:latest", "registry.ollama.ai/host:5000/x:latest"),
    ],
)
def test_a_name_is_shown_with_its_tag(name: str, shown: str, full: str) -> None:
    assert (shown_name(name), full_name(name)) == (shown, full)


def test_show_tells_long_lists_and_tensors_to_who_wants_them(ollama: OllamaCalls) -> None:
    short, long = (ollama.send("show", {"name": "tiny", "verbose": verbose}).json() for verbose in (False, True))

    tokens = long["model_info"]["tokenizer.ggml.tokens"]
    assert len(tokens) == 1280 and "<|eot_id|>" in tokens and short["model_info"]["tokenizer.ggml.tokens"] == []
    assert "tensors" not in short
    assert {"name": "token_embd.weight", "type": "Q6_K", "shape": [256, 1280]} in long["tensors"]


def test_show_puts_a_system_text_and_options_into_the_modelfile(ollama: OllamaCalls) -> None:
    shown = ollama.send("show", {"model": "tiny", "system": "Be brief.", "options": {"num_ctx": 512, "stop": ["a", "b"]}}).json()

    for line in (
        'SYSTEM """Be brief."""',
        "PARAMETER num_ctx 512",
        'PARAMETER stop "a"',
        'PARAMETER stop "b"',
        "PARAMETER temperature 0.2",
    ):
        assert line in shown["modelfile"].split("\n")
    assert shown["system"] == "Be brief." and "num_ctx" not in shown["parameters"]


def test_show_does_not_tell_where_the_file_lies(ollama: OllamaCalls) -> None:
    text = ollama.send("show", {"model": "tiny", "verbose": True}).text

    assert str(bundled_model().parent) not in text and str(ollama.server.home) not in text


def test_a_copy_is_another_name(own: OllamaCalls) -> None:
    copied = own.send("copy", {"source": "tiny", "destination": "org/other:v2"})

    assert (copied.status_code, copied.text) == (200, "")
    assert "org/other:v2" in own.names()
    assert own.answer("chat", model="org/other:v2", messages=ask("Hello!"))["message"]["content"] == HELLO
    deleted = own.send("delete", {"name": "org/other:v2"}, "DELETE")
    assert (deleted.status_code, deleted.text) == (200, "") and "org/other:v2" not in own.names()
    assert own.error("delete", {"model": "org/other:v2"}, "DELETE") == (404, "model 'org/other:v2' not found")


def test_the_bundled_model_cannot_be_deleted_or_replaced(own: OllamaCalls) -> None:
    assert own.error("delete", {"model": "tiny"}, "DELETE")[0] == 409
    assert own.error("create", {"model": "tiny", "from": "tiny", "system": "x"})[0] == 409


def test_a_prefix_finds_a_model_and_deletes_none(own: OllamaCalls) -> None:
    own.send("copy", {"source": "tiny", "destination": "family:8b"})

    found = own.answer("generate", model="family", prompt="Hello!")
    status, words = own.error("delete", {"model": "family"}, "DELETE")

    assert found["response"] == HELLO and (status, words) == (404, "model 'family' not found")
    own.send("delete", {"model": "family:8b"}, "DELETE")


def test_a_model_made_of_another_has_what_was_laid_over_it(own: OllamaCalls) -> None:
    turn = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    template = "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    turns = [{"role": "user", "content": "My name is Ottoline."}, {"role": "assistant", "content": "Nice to meet you, Ottoline!"}]
    body = {
        "model": "marvin",
        "from": "tiny",
        "system": "You are Marvin, a helpful assistant.",
        "parameters": {"temperature": 0, "stop": ["Z"], "num_ctx": 512, "num_predict": 30},
        "messages": turns,
        "template": template,
        "license": ["MIT", "or not"],
    }

    steps = own.lines("create", **body)
    shown = own.send("show", {"model": "marvin"}).json()
    name = own.send("chat", {"model": "marvin", "messages": ask("What is your name?"), "stream": False}).json()
    prompt = own.send("generate", {"model": "marvin", "prompt": "Hi", "_debug_render_only": True}).json()["_debug_info"]
    line = own.loaded("marvin:latest")
    own.send("delete", {"model": "marvin"}, "DELETE")

    assert steps[-1] == {"status": "success"} and all(set(step) == {"status"} for step in steps)
    assert shown["system"] == body["system"] and shown["template"] == template and shown["license"] == "MIT\nor not"
    assert shown["messages"] == turns and shown["details"]["parent_model"] == "tiny"
    assert 'stop                           "Z"' in shown["parameters"].split("\n")
    assert 'MESSAGE user """My name is Ottoline."""' in shown["modelfile"]
    assert "Marvin" in name["message"]["content"] and "My name is Ottoline.<|eot_id|>" in prompt["rendered_template"]
    assert line is not None and line["context_length"] == 512


def test_a_file_is_uploaded_once_and_a_model_made_of_it(own: OllamaCalls) -> None:
    http, path = own.server.http, f"/ollama/api/blobs/{DIGEST}"

    looks = [http.head(path).status_code]
    uploads = [http.post(path, content=CONTENT, headers={"content-type": "application/json"}).status_code for _ in range(2)]
    looks.append(http.head(path).status_code)
    own.lines("create", model="uploaded", files={"model.gguf": DIGEST})
    answer = own.answer("chat", model="uploaded", messages=ask("Hello!"))
    own.send("delete", {"model": "uploaded"}, "DELETE")

    assert looks[-1] == 200 and uploads[-1] == 200 and {looks[0], uploads[0]} in ({404, 201}, {200})
    assert answer["message"]["content"] == HELLO


def test_weights_are_quantised_on_the_way(own: OllamaCalls) -> None:
    path = write_float_model(own.server.home / "float.gguf")
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    own.server.http.post(f"/ollama/api/blobs/{digest}", content=path.read_bytes())

    steps = own.lines("create", model="small", files={"float.gguf": digest}, quantize="q8_0")
    level = own.send("show", {"model": "small"}).json()["details"]["quantization_level"]
    text = own.answer("generate", model="small", prompt="x", raw=True, options={"num_predict": 3})
    own.send("delete", {"model": "small"}, "DELETE")

    told = [step for step in steps if step["status"] == "quantizing F16 model to Q8_0"]
    assert told[0]["completed"] == 0 and told[-1]["completed"] == told[-1]["total"] > 10**6 and "digest" in told[0]
    assert [step["status"] for step in steps if step["status"] in ("verifying conversion", "success")] == [
        "verifying conversion",
        "success",
    ]
    assert level == "Q8_0" and text["eval_count"] == 3


def test_a_file_that_is_another_is_refused(own: OllamaCalls) -> None:
    zeros = f"sha256:{'0' * 64}"
    status, words = own.error(f"blobs/{zeros}", "hello")

    assert status == 400 and words.startswith(f'digest mismatch, expected "{zeros}", got "sha256:2cf24dba')
    assert own.server.http.head(f"/ollama/api/blobs/{zeros}").status_code == 404


@pytest.mark.parametrize("digest", ["sha256:00", "md5:" + "0" * 64, "x", "..%2f..%2fetc"])
def test_a_digest_that_is_none_is_refused(own: OllamaCalls, digest: str) -> None:
    response = own.server.http.head(f"/ollama/api/blobs/{digest}")

    assert response.status_code in (400, 404) and own.server.http.post(f"/ollama/api/blobs/{digest}").status_code in (400, 404)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"from": "tiny", "template": "{{ .System }}"}, "send Jinja"),
        ({"from": "tiny", "template": "{{ messages"}, "failed at line 1"),
        ({"from": "tiny", "parameters": {"warmth": 1}}, "no parameter 'warmth'"),
        ({"from": "tiny", "quantize": "q4_K_M"}, "only supported for F16 and F32"),
        ({"from": "tiny", "adapters": {"a": DIGEST}}, "LoRA"),
        ({"from": "tiny", "files": {"a": DIGEST}}, "either"),
        ({"files": {"a.gguf": f"sha256:{'1' * 64}"}}, "send it first"),
        ({"from": "tiny", "messages": [{"role": "user", "images": ["x"]}]}, "'messages'"),
        *(({"from": "tiny", field: "x"}, f"'{field}'") for field in ("modelfile", "path", "renderer", "parser", "requires", "remote_host")),
        *(({"from": "tiny", field: {"x": "y"}}, f"'{field}'") for field in ("draft_files", "info")),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_a_model_cannot_be_made_of_is_refused_by_its_name(own: OllamaCalls, body: dict[str, Any], words: str, stream: bool) -> None:
    status, told = own.error("create", {"model": "new", "stream": stream, **body})

    assert status == 400 and words in told and "new:latest" not in own.names()


def test_a_pull_is_told_step_by_step(pulling: OllamaCalls, hub: HubServer) -> None:
    lines = pulling.lines("pull", model="hf.co/org/Small-GGUF:Q4_K_M")

    layer = f"pulling {DIGEST.removeprefix('sha256:')[:12]}"
    assert lines[0] == {"status": "pulling manifest"} and lines[-2:] == [{"status": "writing manifest"}, {"status": "success"}]
    layers = [line for line in lines if line["status"] == layer]
    assert layers and all(line["digest"] == DIGEST and line["total"] == len(CONTENT) for line in layers)
    assert {line["status"] for line in lines[1:-2]} <= {layer, "verifying sha256 digest"}
    assert layers[-1]["completed"] == len(CONTENT)
    assert pulling.names()[0] == "org/Small-GGUF:Q4_K_M"


def test_a_pull_without_streaming_is_its_last_step(pulling: OllamaCalls) -> None:
    for name in ("org/Small-GGUF", "tiny"):
        assert pulling.send("pull", {"name": name, "stream": False, "insecure": False}).json() == {"status": "success"}


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_not_there_to_pull_is_told_in_ollamas_words(pulling: OllamaCalls, stream: bool) -> None:
    for name in ("nothing-of-the-kind", "org/nothing"):
        status, words = pulling.error("pull", {"model": name, "stream": stream})

        assert status == 404 and words.startswith("pull model manifest: file does not exist")


@pytest.mark.parametrize("field", ["insecure", "username", "password"])
def test_what_a_pull_or_a_push_would_ignore_is_refused(own: OllamaCalls, field: str) -> None:
    for path in ("pull", "push"):
        status, words = own.error(path, {"model": "tiny", field: True if field == "insecure" else "x"})

        assert status == 400 and f"'{field}'" in words


def test_a_push_is_refused_with_the_reason(own: OllamaCalls) -> None:
    status, words = own.error("push", {"model": "tiny", "insecure": False, "stream": True})

    assert status == 400 and "no registry" in words


def test_a_reader_that_is_slow_still_sees_a_layer_and_the_end() -> None:
    told = PullLines()
    task: Any = None
    last = Progress(name="small", status="success", completed=7, total=7, digest="sha256:" + "ab" * 32)

    lines = [json.loads(line) for line in (told.begin(task) + told.render(task, last)).splitlines()]

    assert lines == [
        {"status": "pulling manifest"},
        {"status": "pulling abababababab", "digest": "sha256:" + "ab" * 32, "total": 7, "completed": 7},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


def test_the_dialect_is_at_the_root_of_its_own_port(make_server: Callable[..., LiveServer], free_port: int) -> None:
    server = make_server("--model", "tiny", "--ollama-port", str(free_port))

    with httpx.Client(base_url=f"http://127.0.0.1:{free_port}", timeout=60) as http:
        assert http.get("/").text == "Ollama is running" and http.head("/").status_code == 200
        assert http.get("/api/tags").json() == server.http.get("/ollama/api/tags").json()
        answer = http.post("/api/chat", json={"model": "tiny", "messages": ask("Hello!"), "options": {"temperature": 0}, "stream": False})
        assert answer.json()["message"]["content"] == HELLO
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["tiny"]
        assert http.get("/nothing").json() == {"error": "404 page not found"}


def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing(own: OllamaCalls) -> None:
    digest = f"sha256:{'2' * 64}"

    def some() -> Iterator[bytes]:
        yield b"x" * 1000
        raise ConnectionError("left")

    with pytest.raises(ConnectionError):
        own.server.http.post(f"/ollama/api/blobs/{digest}", content=some())

    assert own.server.http.head(f"/ollama/api/blobs/{digest}").status_code == 404
    assert own.answer("generate", prompt="Hello!")["response"] == HELLO
