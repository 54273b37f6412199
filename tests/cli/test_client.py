"""The CLI's HTTP client: events as they arrive in pieces, and servers that are none of ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from myllm.cli.client import Answer, Client, read_events
from myllm.errors import MyLLMError, NotFound, ServerUnreachable

END = b'data: {"done":true,"full_text":"x","usage":{"prompt_tokens":3},"finish_reason":"length","truncated_messages":2}\n\n'


@pytest.fixture
def stranger() -> Iterator[Callable[[int, bytes], str]]:
    """A server that is not MyLLM: its URL, once it was told what to answer to everything."""
    servers = []

    def answer_with(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield answer_with
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_whole_however_the_bytes_arrive(size):
    stream = b': keep-alive\n\ndata: {"token":"a"}\n\n: keep-alive\n\ndata: {"token":"b"}\n\n'
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]

    assert list(read_events(chunks)) == [b'{"token":"a"}', b'{"token":"b"}']


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\\r"])
def test_a_separator_inside_an_answer_ends_no_event(separator):
    events = ('data: {"token":"a' + separator.replace("\x0b", "\\u000b").replace("\x0c", "\\u000c") + 'b","done":false}\n\n').encode()

    assert "".join(Answer([events, END])) == f"a{separator}b".replace("\\r", "\r")


def test_the_ending_is_there_when_the_answer_is_over():
    answer = Answer([b'data: {"token":"x","done":false}\n\n', END])

    text = "".join(answer)

    assert text == "x"
    assert (answer.ending.finish_reason, answer.ending.usage, answer.ending.truncated_messages) == ("length", {"prompt_tokens": 3}, 2)


def test_an_error_in_mid_answer_is_raised():
    with pytest.raises(MyLLMError, match="the worker died"):
        list(Answer([b'data: {"token":"x","done":false}\n\n', b'data: {"error":"the worker died","done":true}\n\n']))


@pytest.mark.parametrize("chunks", [[], [b'data: {"token":"x","done":false}\n\n'], [b'data: {"tok']])
def test_an_answer_without_its_end_is_an_error(chunks):
    with pytest.raises(ServerUnreachable, match="before it was complete"):
        list(Answer(chunks))


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (200, b"<html>hello</html>", ServerUnreachable, "is no MyLLM server; check MYLLM_HOST"),
        (200, b"[1]", ServerUnreachable, "is no MyLLM server"),
        (404, b"<html>no</html>", NotFound, "answered 404 and no reason; is it a MyLLM server?"),
        (404, b'{"detail": {"deep": 1}}', NotFound, "answered 404 and no reason"),
        (502, b"", MyLLMError, "answered 502 and no reason"),
        (302, b"", MyLLMError, "answered 302 and no reason"),
        (404, b'{"detail": "its own words"}', NotFound, "^its own words$"),
    ],
)
def test_a_server_that_is_not_ours_is_an_error_of_ours(status, body, error, words, stranger):
    with Client(stranger(status, body)) as client, pytest.raises(error, match=words):
        client.status()


def test_a_stream_from_a_stranger_is_an_error_of_ours(stranger):
    with (
        Client(stranger(500, b"oops")) as client,
        pytest.raises(MyLLMError, match="answered 500 and no reason"),
        client.chat({"model": "tiny", "messages": []}),
    ):
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "https://127.0.0.1:1", "http://no.such.host.invalid"])
def test_nobody_there_is_told_with_the_address(url):
    with Client(url) as client, pytest.raises(ServerUnreachable, match="no MyLLM server at "):
        client.status()


def test_https_to_a_server_without_it_is_an_error_of_ours(stranger):
    url = stranger(200, b"{}").replace("http:", "https:")

    with Client(url) as client, pytest.raises(ServerUnreachable):
        client.status()
