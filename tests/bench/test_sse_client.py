"""The measuring client against bytes in every cut, and against a real socket."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from sse_client import ChunkedBody, Measured, RequestFailed, post


@given(parts=st.lists(st.binary(min_size=1, max_size=40), max_size=8), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_a_chunked_body_is_the_same_however_it_is_cut_into_packets(parts, cuts):
    wire = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    bounds = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    body = ChunkedBody()

    read = b"".join(body.feed(wire[start:end]) for start, end in pairwise(bounds))

    assert read == b"".join(parts)


def answer_once(answer: list[bytes]) -> Measured:
    """What the client measures when a server sends these packets to its request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for packet in answer:
            writer.write(packet)
            await writer.drain()
        writer.close()

    async def ask() -> Measured:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            stream = await post(server.sockets[0].getsockname()[1], "/x", {"prompt": "hi"})
            return await stream.finished

    return asyncio.run(ask())


def test_the_last_event_of_a_chunked_stream_is_kept():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = b'data: {"token":"a","done":false}\n\n: still here\n\ndata: {"done":true,"usage":{"completion_tokens":7}}\n\n'

    measured = answer_once([head[:20], head[20:], b"%x\r\n%s\r\n0\r\n\r\n" % (len(events), events)])

    assert measured.last_event["usage"]["completion_tokens"] == 7
    assert measured.time_to_first > 0


def test_a_stream_without_chunks_is_read_to_its_end():
    measured = answer_once([b"HTTP/1.1 200 OK\r\n\r\n", b'data: {"stop":true,"tokens_predicted":3}\n\n'])

    assert measured.last_event["tokens_predicted"] == 3


@pytest.mark.parametrize(
    "answer",
    [[b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"detail":"queue full"}'], [b"HTTP/1.1 200 OK\r\n\r\n"], []],
    ids=["an error", "no event", "nothing"],
)
def test_a_failed_request_says_so(answer):
    with pytest.raises(RequestFailed, match=r"queue full|200 OK|no answer"):
        answer_once(answer)


def test_gaps_are_between_arrivals_and_can_start_late():
    measured = Measured(started=0.0, arrivals=[1.0, 1.5, 3.5, 3.75])

    assert measured.gaps() == [0.5, 2.0, 0.25]
    assert measured.gaps(since=3.6) == [0.25]
