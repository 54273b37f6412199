"""/v1/models: every installed model, and each of them by its name."""

from __future__ import annotations

from pathlib import Path

from live_server import LiveServer
from openai_calls import Calls
from typed_answers import assert_is

from myllm.server.openai.answers import ModelList, WholeModelAnswer


def test_every_installed_model_is_listed(zoo: LiveServer) -> None:
    answer = zoo.http.get("/v1/models").json()

    assert_is(ModelList, answer)
    assert [model["id"] for model in answer["data"]] == ["bert", "exact", "org/plain:2b", "tiny"]
    assert {(model["object"], model["owned_by"]) for model in answer["data"]} == {("model", "myllm")} and answer["object"] == "list"


def test_a_model_was_created_when_its_file_was(zoo: LiveServer) -> None:
    created = {model["id"]: model["created"] for model in zoo.http.get("/v1/models").json()["data"]}
    folder = Path(zoo.env["MYLLM_MODEL_DIRS"])

    assert created["exact"] == int((folder / "exact.gguf").stat().st_mtime)


def test_a_model_by_its_name_has_every_field(zoo: LiveServer) -> None:
    for path in ("org/plain:2b", "org%2Fplain%3A2b", "org/plain"):
        answer = zoo.http.get(f"/v1/models/{path}").json()

        assert_is(WholeModelAnswer, answer)
        assert answer["id"] == answer["root"] == "org/plain:2b" and answer["permission"] == [] and answer["parent"] is None
        assert answer["object"] == "model" and answer["owned_by"] == "myllm"


def test_a_name_with_a_slash_and_a_colon_works_in_a_body(zoo: LiveServer) -> None:
    answer = Calls(zoo, model="org/plain:2b").chat(max_tokens=2)

    assert answer["model"] == "org/plain:2b"


def test_the_answer_has_the_name_as_listed_whatever_it_was_asked_by(v1: Calls) -> None:
    assert v1.chat(model="tiny:latest", max_tokens=1)["model"] == v1.complete(model="TINY", max_tokens=1)["model"] == "tiny"


def test_an_unknown_model_is_404_and_the_installed_ones_are_named(v1: Calls) -> None:
    for name in ("org/no:such", "x" * 10_000, "%00", "..%2F..", " "):
        response = v1.server.http.get(f"/v1/models/{name}")

        error = response.json()["error"]
        assert response.status_code == 404 and error["code"] == "model_not_found" and error["type"] == "invalid_request_error"
        assert error["param"] == "model"
    assert "tiny" in v1.server.http.get("/v1/models/none").json()["error"]["message"]
