"""The WebSocket: requests one after the other on one socket, the same answers as by HTTP, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from socket import SHUT_RDWR
from typing import Any

import pytest
from live_server import LiveServer, wait_until
from openai_calls import HELLO, Calls, Streamed, asked, streamed
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

PATH = "/chat/completions"
DONE = {"done": True}
STORY = "Tell me a story about a fox."


def address(server: LiveServer) -> str:
    return server.url.replace("http://", "ws://") + "/v1" + PATH


@pytest.fixture
def socket(server: LiveServer) -> Iterator[ClientConnection]:
    with connect(address(server)) as connection:
        yield connection


def send(socket: ClientConnection, content: str, **body: Any) -> None:
    socket.send(json.dumps({"model": "tiny", **asked(content), "temperature": 0} | body))


def receive(socket: ClientConnection) -> list[dict[str, Any]]:
    """The messages of one answer, without the last one."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1] != DONE:
        messages.append(json.loads(socket.recv(60)))
    return messages[:-1]


def ask(socket: ClientConnection, content: str, **body: Any) -> Streamed:
    send(socket, content, **body)
    return streamed(PATH, receive(socket))


def test_an_answer_is_a_chunk_a_message_and_then_done(socket: ClientConnection) -> None:
    answer = ask(socket, "Hello!")

    assert answer.texts == [HELLO] and answer.reasons == ["stop"] and len(answer.chunks) > 5


def test_the_chunks_come_to_what_http_answers(exact: Calls) -> None:
    options: dict[str, Any] = {"model": "exact", "temperature": 1.4, "seed": 3, "n": 2, "max_tokens": 20, "logprobs": True}

    with connect(address(exact.server)) as socket:
        answer = ask(socket, "Tell me a story about a fox.", **options, stream_options={"include_usage": True})

    whole = exact.chat("Tell me a story about a fox.", **options)
    assert answer.texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert answer.usage["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_without_streaming_the_answer_is_one_completion(socket: ClientConnection) -> None:
    send(socket, "Hello!", stream=False)

    (answer,) = receive(socket)

    assert answer["object"] == "chat.completion" and answer["choices"][0]["message"]["content"] == HELLO


def test_requests_sent_at_once_are_answered_in_their_order(socket: ClientConnection) -> None:
    for number in range(5):
        send(socket, f"Repeat after me: {number}", stream=number % 2 == 0)

    answers = [receive(socket) for _ in range(5)]

    assert ["chunk" in answer[0]["object"] for answer in answers] == [True, False, True, False, True]
    assert [answer[0]["choices"][0]["message"]["content"] for answer in answers[1::2]] == ["1", "3"]
    assert [streamed(PATH, answer).texts for answer in answers[::2]] == [["0"], ["2"], ["4"]]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hello", None),
        ("", None),
        ("[]", None),
        ("{}", "model"),
        (b"\x00\x01", None),
        (json.dumps({"model": "none", **asked("x")}), "model"),
        (json.dumps({"model": "tiny", **asked("x"), "temperature": 3}), "temperature"),
        (json.dumps({"model": "tiny", **asked("word " * 4000)}), "messages"),
    ],
)
def test_what_is_no_request_is_answered_by_an_error_and_the_socket_stays(
    socket: ClientConnection, message: str | bytes, param: str | None
) -> None:
    socket.send(message)

    (answer,) = receive(socket)

    assert answer["error"]["type"] == "invalid_request_error" and answer["error"]["param"] == param and answer["error"]["message"]
    assert ask(socket, "Hello!").texts == [HELLO]


def test_a_service_has_its_socket_too(server: LiveServer) -> None:
    with connect(address(server).replace("/v1/", "/code/v1/")) as socket:
        socket.send(json.dumps({"payload": {"model": "tiny", "messages": "Hello!", "temperature": 0}}))
        assert streamed(PATH, receive(socket)).texts == [HELLO]
        socket.send("{}")
        assert receive(socket)[0]["error"]["code"] == 400


def test_twenty_clients_each_get_their_own_answers_while_one_leaves(make_endless: Callable[..., LiveServer]) -> None:
    live = make_endless()

    def talk(client: int) -> list[list[str]]:
        with connect(address(live)) as socket:
            return [ask(socket, f"Repeat after me: blorp {client * 3 + number}").texts for number in range(3)]

    def leave() -> None:
        with connect(address(live)) as socket:
            send(socket, STORY, model="endless")
            socket.recv(60)

    with ThreadPoolExecutor(20) as pool:
        leaving = pool.submit(leave)
        answers = list(pool.map(talk, range(19)))
        leaving.result()

    assert answers == [[[f"blorp {client * 3 + number}"] for number in range(3)] for client in range(19)]
    wait_until(lambda: live.status("endless")["requests"] == 0, "who left has left nothing behind")


def test_closing_in_mid_answer_stops_it_and_drops_what_waited(endless: LiveServer) -> None:
    with connect(address(endless)) as socket:
        for _ in range(3):
            send(socket, STORY, model="endless", user="left-early")
        socket.recv(60)
        wait_until(lambda: endless.status("endless")["running"] == 1, "the first one runs")

    wait_until(lambda: endless.status("endless")["requests"] == 0, "nothing runs and nothing waits")
    assert sum("left-early" in line for line in endless.log) == 1


def test_a_connection_that_breaks_off_stops_its_answer(endless: LiveServer) -> None:
    with connect(address(endless)) as socket:
        send(socket, STORY, model="endless", n=2)
        socket.recv(60)
        wait_until(lambda: endless.status("endless")["running"] == 2, "it runs")

        socket.socket.shutdown(SHUT_RDWR)

        wait_until(lambda: endless.status("endless")["running"] == 0, "it is gone")


def test_a_message_larger_than_a_body_may_be_closes_the_socket_with_1009(zoo: LiveServer) -> None:
    with connect(address(zoo), max_size=None) as socket:
        socket.send("x" * 20_000_001)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)

    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_more_requests_than_may_wait_close_the_socket_with_1008(endless: LiveServer) -> None:
    with connect(address(endless)) as socket, pytest.raises(ConnectionClosed) as closed:
        send(socket, STORY, model="endless")
        for _ in range(200):
            send(socket, "Hello!")
        while True:
            socket.recv(60)

    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    wait_until(lambda: endless.status("endless")["requests"] == 0, "its answer is gone")


def test_a_page_of_another_site_is_refused(server: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(address(server), origin="https://evil.example"):  # type: ignore[arg-type]
        pass

    assert refused.value.response.status_code == 403


def test_each_message_is_in_the_access_log(server: LiveServer, socket: ClientConnection) -> None:
    before = sum("WEBSOCKET /v1/chat/completions 400" in line for line in server.log)

    socket.send("x")
    receive(socket)

    wait_until(lambda: sum("WEBSOCKET /v1/chat/completions 400" in line for line in server.log) == before + 1, "it is logged")


def test_a_server_that_stops_lets_the_running_answer_end_and_refuses_what_waits(make_endless: Callable[..., LiveServer]) -> None:
    """uvicorn closes sockets as soon as it stops, in mid-answer."""
    live = make_endless()

    with connect(address(live)) as socket:
        with live.paused():
            send(socket, STORY, model="endless", max_tokens=200)
            send(socket, "Hello!")
            wait_until(lambda: live.status("endless")["requests"] == 1, "the first one is with the worker")
            live.process.terminate()
            wait_until(lambda: live.http.get("/health").status_code == 503, "the server drains")
        story, refused = receive(socket), receive(socket)
        with pytest.raises(ConnectionClosed):
            socket.recv(60)

    assert story[-1]["choices"][0]["finish_reason"] == "length"
    assert refused[0]["error"]["code"] == "draining" and live.process.wait(60) == 0
