"""Pulls through the client, from a Hub on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hub_server import HubServer
from live_server import LiveServer, wait_until
from store.pull_world import FILE, MB, REPO, model_bytes

import myllm

NAME = f"{REPO}:Q4_K_M"


@pytest.fixture(scope="module")
def puller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, HubServer]]:
    """A server, and the Hub that it pulls from."""
    hub = HubServer()
    server = LiveServer(tmp_path_factory.mktemp("home"), HF_ENDPOINT=hub.url)
    yield server, hub
    server.stop()
    hub.close()


@pytest.fixture(scope="module")
def big() -> bytes:
    return model_bytes(40 * MB)


@pytest.fixture
def pulling(connect: Callable[..., Any], puller: tuple[LiveServer, HubServer]) -> Iterator[tuple[Any, HubServer]]:
    """A client, and the Hub; what was pulled is removed afterwards."""
    server, hub = puller
    hub.rate = None
    client = connect(server.url)
    yield client, hub
    if NAME in [model.name for model in client.models()]:
        assert client.delete_model(NAME).message == f"Model '{NAME}' removed"


def test_a_pull_tells_its_progress(pulling, big):
    client, hub = pulling
    hub.add(REPO, FILE, big)
    hub.rate = 40 * MB

    told = list(client.pull(REPO))

    assert (told[-1].name, told[-1].status, told[-1].completed, told[-1].total) == (NAME, "success", len(big), len(big))
    assert len(told) > 3
    assert [progress.completed for progress in told] == sorted(progress.completed for progress in told)
    assert any(progress.bytes_per_second for progress in told)
    assert client.model(NAME).status == "unloaded"


def test_a_pull_is_waited_for_with_finish(pulling, big):
    client, hub = pulling
    hub.add(REPO, FILE, big)

    assert client.pull(REPO).finish().completed == len(big)


def test_a_pull_that_is_left_stops_and_the_next_one_goes_on(pulling, big):
    client, hub = pulling
    hub.add(REPO, FILE, big)
    hub.rate = 5 * MB
    before = hub.num_served

    with client.pull(REPO) as stream:
        wait_until(lambda: hub.num_served > before + MB, "the pull runs")
        next(iter(stream))
    wait_until(lambda: hub.num_connections == 0, "the server has closed its connections")
    assert NAME not in [model.name for model in client.models()]
    hub.rate = None

    assert client.pull(REPO).finish().status == "success"
    assert hub.num_served - before < 2 * len(big)


def test_a_pull_that_breaks_is_raised(pulling, big):
    client, hub = pulling
    content = hub.add("org/Wrong-GGUF", "wrong-Q4_K_M.gguf", model_bytes())
    hub.promised["wrong-Q4_K_M.gguf"] = {"lfs": {"size": len(content), "sha256": "0" * 64, "pointerSize": 1}}

    with pytest.raises(myllm.MyLLMError, match="checksum"):
        client.pull("org/Wrong-GGUF").finish()


def test_a_model_that_the_hub_has_not_is_told_at_once(pulling):
    client, _ = pulling

    with pytest.raises(myllm.ModelNotFound, match="no repository"), client.pull("org/Nothing"):
        pass
