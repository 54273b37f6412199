"""The reference against the running server: answers have the types that it tells, and so have refusals, whatever comes in.

A light cousin of `make fuzz`, which lets schemathesis think of the requests: here each field of each body is given each of a
few values that no client should send, on a server whose Hub cannot be reached.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, get_args, get_origin

import httpx
import msgspec
import pytest
from live_server import LiveServer, wait_until
from typed_answers import assert_is

from myllm.config import Settings
from myllm.server.operations import Operation
from myllm.server.reference.chapters import Chapter, chapters
from myllm.server.reference.openapi import ALWAYS, WITH_KEYS

TOLD = [(chapter, operation) for chapter in chapters(Settings()) for operation in chapter.operations if not chapter.like]
WITH_BODY = [
    (chapter, operation) for chapter, operation in TOLD if operation.body is not None and operation.body_media == "application/json"
]
STREAMED = [(chapter, operation) for chapter, operation in WITH_BODY if operation.event is not None]
READ = [(chapter, operation) for chapter, operation in TOLD if operation.method == "GET" and "{" not in operation.path]

DEEP = "[" * 200 + "]" * 200
NASTY = (
    "null",
    '""',
    "0",
    "-1",
    "true",
    "1e999",
    "NaN",
    "1" + "0" * 40,
    "[]",
    "{}",
    "[null]",
    '{"a": [1]}',
    '"\\u0000"',
    '"\\ud800"',
    f'"{"x" * 10_000}"',
    DEEP,
)


def name_of(told: Any) -> str:
    return f"{told[1].method}-{told[1].path}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Answers are short here, for the context is."""
    home = tmp_path_factory.mktemp("home")
    live = LiveServer(home, "--model", "tiny", MYLLM_CONTEXT_SIZE="256", HF_ENDPOINT="http://127.0.0.1:1", HF_TOKEN_PATH="/dev/null")
    wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
    yield live
    live.stop()


@pytest.fixture(scope="module")
def examples(small: LiveServer) -> dict[str, Any]:
    """The bodies that the document shows, by `METHOD /path`."""
    paths = small.http.get("/openapi.json").json()["paths"]
    return {
        f"{method.upper()} {path}": operation["requestBody"]["content"]["application/json"]["example"]
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "example" in operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    }


def send(server: LiveServer, operation: Operation, content: str) -> httpx.Response:
    path = operation.path.replace("{name}", "tiny").replace("{model}", "tiny").replace("{id}", "fuzz")
    return server.http.request(operation.method, path, content=content)


def check(chapter: Chapter, operation: Operation, response: httpx.Response, sent: str) -> None:
    """The status and the body are among those that the reference tells."""
    sent = f"{sent[:300]} → {response.status_code} {response.text[:300]}"
    if response.status_code == operation.status:
        media = response.headers.get("content-type", "").partition(";")[0]
        assert media in (operation.media, operation.event_media, *operation.other_media) or not response.content, sent
        if media == "application/json" and operation.media == media:
            assert is_one_of(operation.answer, response.json()), sent
        return
    expected = {*operation.errors, 413, *WITH_KEYS, *ALWAYS} - {500}
    assert response.status_code in expected, sent
    assert_is(dict(operation.other_answers).get(response.status_code, chapter.error), response.json())


@pytest.mark.parametrize("told", READ, ids=name_of)
def test_what_is_read_has_the_type_that_is_told(small: LiveServer, told: tuple[Chapter, Operation]) -> None:
    chapter, operation = told
    response = small.http.get(operation.path)

    assert response.status_code == operation.status
    check(chapter, operation, response, operation.path)


@pytest.mark.parametrize("told", WITH_BODY, ids=name_of)
def test_the_example_that_is_told_is_answered(small: LiveServer, examples: dict[str, Any], told: tuple[Chapter, Operation]) -> None:
    chapter, operation = told
    content = json.dumps(examples[f"{operation.method} {operation.path}"])

    check(chapter, operation, send(small, operation, content), content)


@pytest.mark.parametrize("told", STREAMED, ids=name_of)
def test_the_events_of_a_stream_have_the_types_that_are_told(
    small: LiveServer, examples: dict[str, Any], told: tuple[Chapter, Operation]
) -> None:
    _, operation = told
    response = send(small, operation, json.dumps(examples[f"{operation.method} {operation.path}"] | {"stream": True}))

    assert response.status_code == 200 and response.headers["content-type"].startswith(operation.event_media)
    prefix = "data: " if operation.event_media == "text/event-stream" else ""
    events = [line.removeprefix(prefix) for line in response.text.splitlines() if line and line.startswith(prefix)]
    assert len(events) >= 1
    for event in events:
        if event != operation.last_data:
            assert is_one_of(operation.event, json.loads(event)), event
    assert operation.last_data in (None, events[-1])


def is_one_of(kind: Any, event: Any) -> bool:
    members = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    for member in members:
        try:
            assert_is(member, event)
        except (msgspec.ValidationError, AssertionError):
            continue
        return True
    return False


@pytest.mark.parametrize("told", WITH_BODY, ids=name_of)
def test_no_value_of_a_field_brings_an_answer_that_is_not_told(
    small: LiveServer, examples: dict[str, Any], told: tuple[Chapter, Operation]
) -> None:
    chapter, operation = told
    example = examples[f"{operation.method} {operation.path}"]
    fields = [field.encode_name for field in msgspec.structs.fields(operation.body)]

    for field in fields:
        kept = json.dumps({name: value for name, value in example.items() if name != field})[1:-1]
        for value in NASTY:
            content = f'{{"{field}": {value}{", " if kept else ""}{kept}}}'
            check(chapter, operation, send(small, operation, content), content)
    for content in ("", "[]", "null", "{", '"text"', "\x00", DEEP):
        check(chapter, operation, send(small, operation, content), content)
