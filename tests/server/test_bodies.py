"""What a client may get wrong in a body: each is a 400 (or 413) that names the field and what it takes."""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from live_server import LiveServer, wait_until

from myllm.errors import InvalidRequest
from myllm.server.bodies import check_structure

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}]}


def chat(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**CHAT, **changes}.items() if value is not ...}).encode()


def options(**given: Any) -> bytes:
    return chat(options=given)


MALFORMED = [
    (b"", "empty"),
    (b"   ", "empty"),
    (b"{", "JSON"),
    (b"[]", "object"),
    (b'"chat"', "object"),
    (b"null", "object"),
    (b"\xff\xfe", "JSON"),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff"}]}', "JSON"),
    (chat(model=...), "'model' is required"),
    (chat(model=7), "'model' takes a string"),
    (chat(messages=...), "'messages' is required"),
    (chat(messages="Hello!"), "'messages' takes an array"),
    (chat(messages=[]), "'messages'"),
    (chat(messages=[{"content": "x"}]), "'messages[0].role' is required"),
    (chat(messages=[{"role": "user"}]), "'messages[0].content' is required"),
    (
        chat(messages=[{"role": "wizard", "content": "x"}]),
        "'messages[0].role' takes 'assistant', 'developer', 'system', 'tool' or 'user', got 'wizard'",
    ),
    (chat(messages=[{"role": "user", "content": 7}]), "'messages[0].content' takes a string"),
    (chat(messages=[{"role": "user", "content": "\ud800"}]), "surrogate"),
    (chat(stream="yes"), "'stream' takes true or false"),
    (chat(session_id="../etc"), "session_id"),
    (chat(session_id=""), "session_id"),
    (chat(session_id="x" * 129), "session_id"),
    (chat(options=[]), "'options' takes an object"),
    (chat(options="hot"), "'options' takes an object"),
    (options(temperature=2.1), "'options.temperature' takes a number <= 2.0"),
    (options(temperature=-0.1), "'options.temperature'"),
    (options(temperature="hot"), "'options.temperature'"),
    (options(top_p=1.5), "'options.top_p'"),
    (options(top_k=-2), "'options.top_k'"),
    (options(top_k=1.5), "'options.top_k'"),
    (options(min_p=-1), "'options.min_p'"),
    (options(max_tokens=0), "'options.max_tokens'"),
    (options(max_tokens=2**40), "'options.max_tokens'"),
    (options(stop=["x"] * 17), "'options.stop'"),
    (options(stop=[""]), "'options.stop[0]'"),
    (options(stop=""), "'options.stop'"),
    (options(repeat_penalty=-1), "'options.repeat_penalty'"),
    (options(frequency_penalty=3), "'options.frequency_penalty'"),
    (options(presence_penalty=-2.5), "'options.presence_penalty'"),
    (options(seed="x"), "'options.seed'"),
    (options(logit_bias={"x": 1}), "each name in 'options.logit_bias' takes an integer"),
    (options(logit_bias={"1": 101}), "each value in 'options.logit_bias' takes a number <= 100.0"),
    (options(logit_bias={"999999": 1}), "logit_bias"),
    (b'{"model": "tiny", "messages": ' + b"[" * 101 + b"]" * 101 + b"}", "nested deeper than 100"),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "options": {"temperature": NaN}}', "JSON"),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "options": {"temperature": 1e999}}', "temperature"),
    (chat(think=True), "think"),
    (chat(keep_alive="soon"), "keep_alive"),
]


@pytest.mark.parametrize(
    ("body", "is_too_deep"),
    [
        (b"[" * 100 + b"]" * 100, False),
        (b"[" * 101 + b"]" * 101, True),
        (b'{"a":[' * 50 + b"]}" * 50, False),
        (b'{"a":[' * 50 + b"[" + b"]" + b"]}" * 50, True),
        (b"[" + b"[]," * 1000 + b"[]]", False),
        (b'["' + b"[" * 1000 + b'"]', False),  # a text is not looked into
        (rb'["\"' + b"[" * 1000 + rb'\\"]', False),  # it does not end with an escaped quote, and does with a quote after a backslash
        (rb'["\\",' + b"[" * 101, True),
        ('["{Ûý"'.encode() + b"," + b"[" * 99, False),
        (b"]" * 200 + b"[" * 101, False),  # no JSON at all, which is told as that
        (b"", False),
    ],
    ids=range(11),
)
def test_nesting_is_counted_outside_of_texts(body: bytes, is_too_deep: bool) -> None:
    with pytest.raises(InvalidRequest, match="deeper than 100") if is_too_deep else nullcontext():
        check_structure(body)


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [
        (b"[" + b"[]," * 99_998 + b"[]]", False),
        (b"[" + b"[]," * 99_999 + b"[]]", True),
        (b"[" + b'{"a":1},' * 100_000 + b"{}]", True),
        (b'["' + b"{}" * 200_000 + b'"]', False),
    ],
    ids=range(4),
)
def test_arrays_and_objects_are_bounded_in_number_too(body: bytes, is_refused: bool) -> None:
    """4 million arrays of a token each were 16 MB, and nobody was answered for 15 seconds."""
    with pytest.raises(InvalidRequest, match=r"100,00\d arrays and objects; it takes 100,000 at most") if is_refused else nullcontext():
        check_structure(body)


@pytest.mark.parametrize(("body", "told"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_body_is_400_and_says_why(server: LiveServer, body: bytes, told: str) -> None:
    response = server.http.post("/api/chat", content=body)

    assert response.status_code == 400, response.text
    assert list(response.json()) == ["detail"] and told in response.json()["detail"], response.text


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/api/generate", {"model": "tiny"}, "'prompt' is required"),
        ("/api/generate", {"model": "tiny", "prompt": ["x"]}, "'prompt' takes a string"),
        ("/api/embeddings", {"model": "tiny", "input": []}, "'input'"),
        ("/api/embeddings", {"model": "tiny", "input": [7]}, "'input[0]'"),
        ("/api/embeddings", {"model": "tiny", "input": "word " * 5000}, "2,048"),
        ("/api/detokenize", {"model": "tiny", "tokens": [-1]}, "'tokens[0]'"),
        ("/api/detokenize", {"model": "tiny", "tokens": [999999]}, "'tokens'"),
        ("/api/tokenize", {"model": "tiny"}, "'content' is required"),
        ("/api/models/tiny/load", {"context_size": -1}, "'context_size'"),
        ("/api/models/tiny/load", {"parallel": 1000}, "'parallel'"),
        ("/api/models/tiny/load", {"kv_cache_type": "q3"}, "'kv_cache_type'"),
    ],
)
def test_every_endpoint_names_the_field(server: LiveServer, path: str, body: dict[str, Any], told: str) -> None:
    response = server.post(path, **body)

    assert response.status_code == 400 and told in response.json()["detail"], response.text


def test_a_prompt_over_the_context_is_400_with_both_numbers_before_any_byte_of_a_stream(server: LiveServer) -> None:
    response = server.post("/api/generate", model="tiny", prompt="word " * 3000, stream=True)

    assert response.status_code == 400 and response.headers["content-type"] == "application/json"
    assert "2,048" in response.json()["detail"] and "tokens" in response.json()["detail"]


def test_max_tokens_beyond_the_context_is_accepted_and_ends_with_length(server: LiveServer) -> None:
    prompt = "a " * 1500
    answer = server.post("/api/generate", model="tiny", prompt=prompt, options={"max_tokens": 100_000, "ignore_eos": True}).json()

    assert answer["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 2048


def test_a_huge_body_is_413(server: LiveServer) -> None:
    response = server.http.post("/api/chat", content=b'{"model": "' + b"x" * 20_000_001 + b'"}')

    assert response.status_code == 413 and "20,000,000" in response.json()["detail"]


def test_too_many_messages_are_400(server: LiveServer) -> None:
    response = server.post("/api/chat", model="tiny", messages=[{"role": "user", "content": "x"}] * 10_001)

    assert response.status_code == 400 and "10,000" in response.json()["detail"]


def test_unknown_fields_are_ignored(server: LiveServer) -> None:
    assert server.chat("Hello!", colour="blue", options={"shininess": 3})["finish_reason"] == "stop"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/v1/responses", "/api/chat", "/chat"])
@pytest.mark.parametrize("sent", [b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\nno length\r\n"])
def test_a_client_that_leaves_within_its_body_is_no_fault_of_the_server(server: LiveServer, path: str, sent: bytes) -> None:
    """It was answered with 500, which nobody read, and a traceback in the log."""
    address, seen = httpx.URL(server.url), len(server.log)

    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + sent)

    wait_until(lambda: any(f"POST {path} 499" in line for line in server.log[seen:]), "the client's leaving is in the log")
    assert not any("Traceback" in line for line in server.log[seen:])
