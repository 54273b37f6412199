"""Models of other programs, chatted with where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from live_server import LiveServer
from store.test_in_place import LIBRARY, PARAMS, WEIGHTS, put_blob, put_manifest

from myllm.store.catalog import bundled_model


def test_a_model_of_ollamas_answers_is_shown_as_its_and_cannot_be_removed(make_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    ollama = tmp_path / "ollama"
    weights = put_blob(ollama, bundled_model().read_bytes())
    parameters = put_blob(ollama, b'{"temperature": 0, "num_predict": 3}')
    layers = [{"mediaType": WEIGHTS, **weights}, {"mediaType": PARAMS, **parameters}]
    manifest = put_manifest(ollama, f"{LIBRARY}/little/1b", {"schemaVersion": 2, "layers": layers})
    server = make_server(OLLAMA_MODELS=str(ollama))

    answer = server.chat("What is the capital of France?", model="little:1b")
    shown = server.http.get("/api/models/little:1b").json()
    refused = server.http.delete("/api/models/little:1b")

    assert (answer["usage"]["completion_tokens"], answer["finish_reason"]) == (3, "length")
    assert (shown["name"], shown["details"]["source"], shown["parameters"]["max_tokens"]) == ("little:1b", "ollama", 3)
    assert refused.status_code == 409 and "belongs to Ollama" in refused.json()["detail"]
    assert manifest.exists()


def test_the_setting_leaves_other_programs_alone(make_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    weights = put_blob(tmp_path / "ollama", bundled_model().read_bytes())
    put_manifest(tmp_path / "ollama", f"{LIBRARY}/little/1b", {"layers": [{"mediaType": WEIGHTS, **weights}]})
    server = make_server(OLLAMA_MODELS=str(tmp_path / "ollama"), MYLLM_IN_PLACE="")

    listed = [model["name"] for model in server.http.get("/api/models").json()["models"]]

    assert listed == ["tiny"]


def test_the_details_of_a_model_are_its_own_and_not_in_the_list(server: LiveServer) -> None:
    listed = server.http.get("/api/models").json()["models"]
    details = server.http.get("/api/models/tiny").json()["details"]

    assert all("details" not in model for model in listed)
    assert details["tensor_types"]["Q4_K"] == {"count": 38, "num_bytes": 2396160}
    assert "path" not in details
