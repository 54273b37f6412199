"""What goes wrong on a real machine: killed workers, clients that leave, broken files, a server that must stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from live_server import LiveServer, pause, wait_until

TINY = Path(__file__).parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
STORY = {"model": "endless", "messages": [{"role": "user", "content": "Write a very long story."}]}
HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"


def test_a_killed_worker_ends_its_stream_with_an_error_and_the_next_request_is_served(make_endless: Callable[..., LiveServer]) -> None:
    server = make_endless()
    health: list[int] = []
    is_over = threading.Event()

    def watch_health() -> None:
        while not is_over.is_set():
            health.append(httpx.get(f"{server.url}/health").status_code)

    watcher = threading.Thread(target=watch_health)
    watcher.start()
    events = []
    for event in server.stream("/api/chat", **STORY, session_id="killed"):
        events.append(event)
        if len(events) == 5:
            os.kill(server.worker_pids()[0], signal.SIGKILL)
    answer = server.post("/api/generate", model="endless", prompt="Once", options={"max_tokens": 5})
    is_over.set()
    watcher.join()

    assert len(events) >= 6 and set(events[-1]) == {"error", "done"}
    assert events[-1]["done"] is True and "SIGKILL" in events[-1]["error"] and "endless" in events[-1]["error"]
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 5
    assert health and set(health) == {200}
    stored = server.http.get("/api/sessions/killed").json()["messages"]
    assert stored[-1]["finish_reason"] == "cancelled" and stored[-1]["content"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": "Hello!"}]}),
        ("generate", {"prompt": "Once"}),
        ("embeddings", {"input": "Once"}),
        ("tokenize", {"content": "Once"}),
    ],
)
def test_a_worker_that_dies_before_anything_was_answered_is_replaced_unseen(
    make_server: Callable[..., LiveServer], path: str, body: dict[str, object]
) -> None:
    server = make_server("--model", "tiny")
    server.chat("Hello!")
    pid = server.worker_pids()[0]
    pause(pid)  # so that the request below is surely waiting when the worker dies
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.post(f"/api/{path}", model="tiny", **body)))
    asking.start()
    wait_until(lambda: server.status()["requests"] == 1, "the request was handed to the worker")

    os.kill(pid, signal.SIGKILL)
    asking.join()

    assert answers[0].status_code == 200, answers[0].text
    assert server.worker_pids() != [pid]


def test_an_answer_without_streaming_survives_a_worker_that_dies_in_the_middle_of_it(make_endless: Callable[..., LiveServer]) -> None:
    """Its client had seen nothing, yet it got a 500, because the engine had already produced a part."""
    server = make_endless()
    answers: list[httpx.Response] = []
    body = {**STORY, "session_id": "whole", "options": {"max_tokens": 5000}}
    asking = threading.Thread(target=lambda: answers.append(server.post("/api/chat", **body)))
    asking.start()
    wait_until(lambda: server.num_generated("endless") > 100, "a part of the answer was produced")

    os.kill(server.worker_pids()[0], signal.SIGKILL)
    asking.join()

    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["usage"]["completion_tokens"] == 5000
    stored = server.http.get("/api/sessions/whole").json()["messages"]
    assert len(stored) == 2 and stored[-1]["content"] == answers[0].json()["message"]["content"]


def test_a_client_that_leaves_stops_its_generation_and_frees_its_place(endless: LiveServer) -> None:
    with httpx.stream("POST", f"{endless.url}/api/chat", json={**STORY, "stream": True, "session_id": "left"}) as response:
        lines = response.iter_lines()  # a loose one would close the stream
        next(lines)
        assert endless.status("endless")["running"] == 1

    wait_until(lambda: endless.status("endless")["running"] == 0, "the sequence was freed")
    stored = wait_until(
        lambda: [m for m in endless.http.get("/api/sessions/left").json()["messages"] if m["role"] == "assistant"], "the reply was stored"
    )
    assert stored[0]["finish_reason"] == "cancelled" and stored[0]["content"]


def test_a_client_that_leaves_without_streaming_is_noticed_too(endless: LiveServer) -> None:
    client = socket.create_connection(("127.0.0.1", httpx.URL(endless.url).port or 0))
    request = httpx.Request("POST", f"{endless.url}/api/generate", json={"model": "endless", "prompt": "Once"})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    client.sendall(f"POST /api/generate HTTP/1.1\r\n{head}\r\n".encode() + request.content)
    wait_until(lambda: endless.status("endless")["running"] == 1, "the request ran")

    client.close()

    wait_until(lambda: endless.status("endless")["running"] == 0, "the sequence was freed")


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("corrupt", lambda data: b"GGUF" + b"\xff" * 64 + data[68:], ""),
        ("truncated", lambda data: data[: len(data) // 2], "cut off"),
        ("empty", lambda data: b"", "empty"),
        ("text", lambda data: b"this is no model", "not a GGUF file"),
    ],
)
def test_a_broken_file_is_told_and_disturbs_nobody(
    make_server: Callable[..., LiveServer], name: str, damage: Callable[[bytes], bytes], told: str
) -> None:
    server = make_server()
    folder = server.home / "models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.gguf").write_bytes(damage(TINY.read_bytes()))

    response = server.post("/api/chat", model=name, messages=[{"role": "user", "content": "x"}])

    assert response.status_code == 500 and name in response.json()["detail"] and told in response.json()["detail"], response.text
    assert [model["name"] for model in server.http.get("/api/models").json()["models"]] == ["tiny"]
    assert server.chat("Hello!")["message"]["content"] == HELLO


def test_a_file_that_only_llama_cpp_can_refuse_is_told_with_its_reason(make_server: Callable[..., LiveServer]) -> None:
    server = make_server()
    (server.home / "models").mkdir(parents=True, exist_ok=True)
    data = TINY.read_bytes().replace(b"blk.3.attn_q.weight", b"blk.3.attn_x.weight")
    (server.home / "models" / "odd.gguf").write_bytes(data)

    response = server.post("/api/generate", model="odd", prompt="x")

    assert response.status_code == 500 and "blk.3.attn_q.weight" in response.json()["detail"], response.text
    assert server.http.get("/api/models/odd").json()["status"] == "failed"
    assert server.chat("Hello!")["message"]["content"] == HELLO


def test_sigterm_lets_a_running_stream_finish_and_exits_with_zero(make_endless: Callable[..., LiveServer]) -> None:
    server = make_endless()
    events = server.stream("/api/chat", **STORY, options={"max_tokens": 5000})
    next(events)

    server.process.send_signal(signal.SIGTERM)
    rest = list(events)

    assert rest[-1]["done"] is True and rest[-1]["finish_reason"] == "length"
    assert server.process.wait(30) == 0


def test_a_worker_ends_when_its_server_is_gone(make_server: Callable[..., LiveServer]) -> None:
    server = make_server("--model", "tiny")
    server.chat("Hello!")
    worker = psutil.Process(server.worker_pids()[0])

    server.process.kill()

    assert worker.wait(30) is None or not worker.is_running()


def test_unloading_under_a_stream_waits_for_it(make_endless: Callable[..., LiveServer]) -> None:
    server = make_endless()
    events = server.stream("/api/chat", **STORY, options={"max_tokens": 5000})
    next(events)

    unloading = threading.Thread(target=lambda: server.post("/api/models/endless/unload"))
    unloading.start()
    last = list(events)[-1]
    unloading.join()

    assert last["finish_reason"] == "length"
    assert server.http.get("/api/models/endless").json()["status"] == "unloaded"


def test_a_port_in_use_is_told_with_its_number(make_server: Callable[..., LiveServer]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(RuntimeError, match=f"port {port} on 127.0.0.1 is already in use"):
            make_server("--port", str(port))


def test_a_queue_that_is_full_answers_503_with_retry_after(make_endless: Callable[..., LiveServer]) -> None:
    server = make_endless(MYLLM_PARALLEL="1", MYLLM_QUEUE_SIZE="1")
    body = {"model": "endless", "prompt": "Once"}
    running = server.stream("/api/generate", **body)
    next(running)
    waiting = server.stream("/api/generate", **body)
    queued = threading.Thread(target=lambda: next(waiting))
    queued.start()
    wait_until(lambda: server.status("endless")["waiting"] == 1, "one request waits")

    refused = server.post("/api/generate", **body)

    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0 and "queue" in refused.json()["detail"]
    running.close()
    queued.join()
    waiting.close()


def test_a_model_that_nobody_uses_goes_after_its_keep_alive(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(MYLLM_KEEP_ALIVE="0")

    server.chat("Hello!")

    wait_until(lambda: not server.status(), "the model was unloaded")
    assert server.chat("Hello!", keep_alive="-1")["message"]["content"] == HELLO
    assert server.status()["expires_at"] is None


def test_the_bundled_model_cannot_be_removed_but_a_file_can(make_server: Callable[..., LiveServer]) -> None:
    server = make_server()
    (server.home / "models").mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY, server.home / "models" / "copy.gguf")
    assert server.chat("Hello!", model="copy")["message"]["content"] == HELLO

    assert server.http.delete("/api/models/tiny").status_code == 409
    assert server.http.delete("/api/models/copy").status_code == 200
    assert server.http.get("/api/models/copy").status_code == 404 and not server.status("copy")
