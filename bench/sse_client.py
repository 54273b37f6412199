"""One streamed HTTP request, measured. A client so light that it is never what a benchmark measures.

A general HTTP library spends more on an event than a small model spends on its token. This one speaks just enough
HTTP/1.1 for the two servers here: one POST a connection, chunked or until the end, and of the events only the arrival
times and the last one are kept. How many tokens came is what the server's last event says, never the number of
events: one event may carry several tokens, or a token no whole character.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


class RequestFailed(Exception):
    """The server answered with an error, or closed the connection before its last event."""


@dataclass
class Measured:
    """One finished stream; times are in seconds of `time.perf_counter`."""

    started: float
    arrivals: list[float] = field(default_factory=list)  # of each packet that held an event; several may come in one
    last_event: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> float:
        return self.arrivals[-1]

    @property
    def time_to_first(self) -> float:
        return self.arrivals[0] - self.started

    def gaps(self, since: float = 0.0) -> list[float]:
        """The pauses between events, as somebody who watches the text appear sees them."""
        return [later - earlier for earlier, later in pairwise(self.arrivals) if later >= since]


class ChunkedBody:
    """Takes chunked transfer coding off a stream of bytes, whatever their packets."""

    def __init__(self) -> None:
        self.pending = b""
        self.left = 0  # bytes of the current chunk that have not come yet, its line end included

    def feed(self, data: bytes) -> bytes:
        data, body = self.pending + data, []
        self.pending = b""
        at = 0
        while at < len(data):
            if not self.left:
                line_end = data.find(b"\r\n", at)
                if line_end < 0:
                    break
                self.left = int(data[at:line_end].split(b";")[0], 16) + 2
                at = line_end + 2
            taken = data[at : at + self.left]
            body.append(taken[: max(0, self.left - 2)])
            self.left -= len(taken)
            at += len(taken)
        self.pending = data[at:]
        return b"".join(body)


class EventStream(asyncio.Protocol):
    """Sends one request and notes when events arrive; `finished` gets the measurement."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.finished: asyncio.Future[Measured] = asyncio.get_running_loop().create_future()
        self.first_event: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.measured = Measured(started=0.0)
        self.head = b""
        self.chunked: ChunkedBody | None = None
        self.is_in_body = False
        self.tail = b""  # what followed the last whole line
        self.last_line = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.measured.started = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.is_in_body:
            data = self._read_head(data)
        body = self.chunked.feed(data) if self.chunked else data
        if not body:
            return
        lines = (self.tail + body).split(b"\n")
        self.tail = lines.pop()
        events = [line for line in lines if line.startswith((b"data: {", b"{"))]  # server-sent, or a line of JSON each
        if events:
            self.measured.arrivals.append(now)
            self.last_line = events[-1]
            if not self.first_event.done():
                self.first_event.set_result(None)

    def _read_head(self, data: bytes) -> bytes:
        """The part of `data` that is body; nothing until the headers are complete."""
        self.head += data
        head, blank_line, rest = self.head.partition(b"\r\n\r\n")
        if not blank_line:
            return b""
        self.head = head
        self.is_in_body = True
        if b"transfer-encoding: chunked" in head.lower():
            self.chunked = ChunkedBody()
        return rest

    def connection_lost(self, exc: Exception | None) -> None:
        status = self.head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 200" not in status or not self.last_line:
            failure = RequestFailed(f"{status or 'no answer'}: {(self.tail or self.last_line)[:500].decode('utf-8', 'replace')}")
            for waiting in (self.first_event, self.finished):
                if not waiting.done():
                    waiting.set_exception(failure)
                    waiting.exception()  # seen: whoever awaits only one of the two still gets it, and asyncio does not complain
            return
        self.measured.last_event = json.loads(self.last_line.removeprefix(b"data: "))
        if not self.finished.done():
            self.finished.set_result(self.measured)


async def post(port: int, path: str, body: dict[str, Any]) -> EventStream:
    """Send a streaming request to a local server; await its `first_event` or `finished`."""
    encoded = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(encoded)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: EventStream(head.encode() + encoded), "127.0.0.1", port)
    return stream
