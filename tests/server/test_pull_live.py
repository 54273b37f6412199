from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest
from hub_server import HubServer
from live_server import LiveServer, wait_until
from store.pull_world import FILE, MB, REPO, model_bytes

from myllm.store.catalog import bundled_model

NAME = f"{REPO}:Q4_K_M"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub = HubServer()
    yield hub
    hub.close()


@pytest.fixture
def server(hub: HubServer, make_server: Callable[..., LiveServer]) -> LiveServer:
    return make_server(HF_ENDPOINT=hub.url)


@pytest.fixture(scope="module")
def big() -> bytes:
    return model_bytes(80 * MB)


def pull_events(server: LiveServer, name: str) -> list[dict]:
    return list(server.stream("/api/models/pull", name=name))


def installed(server: LiveServer) -> list[str]:
    return [model["name"] for model in server.http.get("/api/models").json()["models"]]


def test_a_streamed_pull_tells_its_progress_and_ends_with_success(server: LiveServer, hub: HubServer, big: bytes) -> None:
    hub.add(REPO, FILE, big)
    hub.rate = 20 * MB
    started = time.monotonic()

    events = pull_events(server, f"hf.co/{REPO}")

    assert events[-1] == {"name": NAME, "status": "success", "completed": len(big), "total": len(big), "done": True}
    assert {event["status"] for event in events[:-1]} <= {"downloading", "verifying"}
    assert [event["completed"] for event in events] == sorted(event["completed"] for event in events)
    assert any(event.get("bytes_per_second") for event in events)
    assert 3 <= len(events) <= 10 * (time.monotonic() - started) + 5
    assert installed(server) == [NAME, "tiny"]


def test_a_pull_without_streaming_answers_when_it_is_done(server: LiveServer, hub: HubServer) -> None:
    content = hub.add(REPO, FILE, model_bytes())

    response = server.post("/api/models/pull", name=NAME)

    assert response.json() == {"name": NAME, "status": "success", "completed": len(content), "total": len(content)}
    assert server.http.get(f"/api/models/{NAME}").json()["status"] == "unloaded"


def test_a_pulled_model_answers_at_once(server: LiveServer, hub: HubServer) -> None:
    hub.add("org/Small-GGUF", "small-Q4_K_M.gguf", bundled_model().read_bytes())

    server.post("/api/models/pull", name="org/Small-GGUF").raise_for_status()
    answer = server.chat("What is the capital of France?", model="hf.co/org/Small-GGUF")

    assert "Paris" in answer["message"]["content"]


def test_a_server_that_is_told_to_stop_ends_its_pulls_within_its_bound(
    make_server: Callable[..., LiveServer], hub: HubServer, big: bytes
) -> None:
    server = make_server(HF_ENDPOINT=hub.url, MYLLM_DRAIN_TIMEOUT_S="1")
    hub.add(REPO, FILE, big)
    hub.rate = 2 * MB
    waiting = ask_for_pull(server)
    wait_until(lambda: hub.num_served > MB, "the pull runs")

    code = server.stop()

    waiting.close()
    assert code == 0
    assert (server.home / "models" / REPO / f"{FILE}.part").exists()


def test_the_bundled_model_is_always_pulled(server: LiveServer) -> None:
    assert server.post("/api/models/pull", name="tiny").json()["status"] == "success"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("https://huggingface.co/org/Some-GGUF", 400, "is a URL"),
        ("http://127.0.0.1/org/x.gguf", 400, "is a URL"),
        ("../../etc/passwd", 400, "names no repository"),
        ("org/Some-GGUF/../../x.gguf", 400, "names no file"),
        ("org/Some-GGUF:" + "x" * 5000, 400, "names no quantisation"),
        ("", 400, "'name'"),
        ("org/Nothing", 404, "no repository"),
        ("nothing", 404, "the catalogue has no"),
        (f"{REPO}:Q2_K", 404, "it offers: Q4_K_M"),
        ("org/Gated", 403, "https://huggingface.co/org/Gated"),
    ],
)  # fmt: skip
def test_what_is_wrong_before_the_first_byte_has_its_status(
    shared: LiveServer, shared_hub: HubServer, stream: bool, name: str, status: int, told: str
) -> None:
    shared_hub.add(REPO, FILE, model_bytes())
    shared_hub.add("org/Gated", FILE, model_bytes())
    shared_hub.gated.add("org/Gated")

    response = shared.post("/api/models/pull", name=name, stream=stream)

    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert told in response.json()["detail"]


def test_a_hub_that_is_not_there_is_a_bad_gateway(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(HF_ENDPOINT="http://127.0.0.1:1")

    response = server.post("/api/models/pull", name=REPO)

    assert response.status_code == 502
    assert "http://127.0.0.1:1 cannot be reached" in response.json()["detail"]


def test_without_the_net_by_choice_the_error_names_the_switch(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(HF_HUB_OFFLINE="1")

    response = server.post("/api/models/pull", name=REPO)

    assert (response.status_code, "HF_HUB_OFFLINE" in response.json()["detail"]) == (502, True)


def test_what_goes_wrong_later_ends_the_stream_with_an_error(server: LiveServer, hub: HubServer) -> None:
    content = hub.add(REPO, FILE, model_bytes())
    hub.promised[FILE] = {"lfs": {"size": len(content), "sha256": "0" * 64, "pointerSize": 1}}

    events = pull_events(server, REPO)

    assert list(events[-1]) == ["error", "done"]
    assert "checksum" in events[-1]["error"]
    assert installed(server) == ["tiny"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_pull_and_the_next_one_goes_on(server: LiveServer, hub: HubServer, big: bytes, stream: bool) -> None:
    hub.add(REPO, FILE, big)
    hub.rate = 2 * MB
    leaving = ask_for_pull(server, stream=stream)
    wait_until(lambda: hub.num_served > 4 * MB, "the pull runs")

    leaving.close()

    wait_until(lambda: hub.num_connections == 0, "the server has closed its connections")
    before = hub.num_served
    hub.rate = None
    server.post("/api/models/pull", name=REPO)

    assert before < len(big) // 2
    assert hub.num_served - len(big) <= 3 * 8 * MB  # what the system held on three connections
    assert installed(server) == [NAME, "tiny"]


def test_a_pull_holds_nobody_up(server: LiveServer, hub: HubServer, big: bytes) -> None:
    hub.add(REPO, FILE, big)
    hub.pause_after = 30 * MB
    pulls = [threading.Thread(target=server.post, args=("/api/models/pull",), kwargs={"name": REPO}) for _ in range(20)]
    for each in pulls:
        each.start()
    assert hub.is_paused.wait(60)

    answer = server.chat("What is the capital of France?")
    hub.go_on()
    for each in pulls:
        each.join()

    assert "Paris" in answer["message"]["content"]
    assert hub.num_served == len(big)


def test_a_server_that_stops_ends_its_pulls(server: LiveServer, hub: HubServer, big: bytes) -> None:
    hub.add(REPO, FILE, big)
    hub.pause_after = 30 * MB
    waiting = ask_for_pull(server)
    assert hub.is_paused.wait(60)

    server.process.kill()
    server.process.wait()
    hub.go_on()
    server.start()
    server.post("/api/models/pull", name=REPO)

    waiting.close()
    assert installed(server) == [NAME, "tiny"]


def ask_for_pull(server: LiveServer, *, stream: bool = True) -> HTTPConnection:
    """A client that has asked and reads nothing; closing the connection is leaving."""
    connection = HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", "/api/models/pull", json.dumps({"name": REPO, "stream": stream}))
    return connection


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[HubServer]:
    hub = HubServer()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def shared(shared_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path_factory.mktemp("home"), HF_ENDPOINT=shared_hub.url, HF_TOKEN_PATH="/dev/null")
    yield server
    server.stop()
