"""One server for all tests of the client, and both clients behind one face, so that each fact is tested for both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from live_server import LiveServer, wait_until

import myllm


class Awaited:
    """An async client, session or stream that looks like the other kind: what it returns is awaited here, on one event loop."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, "aclose" if name == "close" else name)
        return (lambda *args, **kwargs: self._seen(value(*args, **kwargs))) if callable(value) else value

    def __enter__(self) -> Any:
        self._runner.run(self._inner.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._inner.__aexit__(*error))

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        try:
            return self._runner.run(self._inner.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def _seen(self, value: Any) -> Any:
        result = self._runner.run(value) if inspect.iscoroutine(value) else value
        return Awaited(result, self._runner) if isinstance(result, myllm.AsyncStream | myllm.AsyncSession) else result


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("home"), "--model", "tiny")
    wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
    yield live
    live.stop()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A client of each kind, by base_url and what else it takes; closed afterwards."""
    monkeypatch.delenv("MYLLM_API_KEY", raising=False)
    monkeypatch.delenv("MYLLM_HOST", raising=False)
    runner = asyncio.Runner()
    made: list[Any] = []

    def make(base_url: str | None = None, **settings: Any) -> Any:
        is_sync = request.param == "sync"
        made.append(myllm.Client(base_url, **settings) if is_sync else Awaited(myllm.AsyncClient(base_url, **settings), runner))
        return made[-1]

    yield make
    for client in made:
        client.close()
    runner.close()


@pytest.fixture
def client(connect: Callable[..., Any], server: LiveServer) -> Any:
    return connect(server.url)


@dataclass
class Stranger:
    """A server of one answer, given to everything; `asked` holds the requests: method, path, headers, body."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, Any, bytes]] = field(default_factory=list)
    is_silent: bool = False
    url: str = ""

    def answer(self, status: int, body: bytes, **headers: str) -> str:
        """The URL at which this is answered; `_` in a header's name stands for `-`."""
        self.status, self.body, self.headers = status, body, {name.replace("_", "-"): value for name, value in headers.items()}
        return self.url

    def stream(self, *events: str) -> str:
        """The URL at which these events come, and then the end of the connection."""
        data = "".join(f"data: {event}\n\n" for event in events).encode()
        return self.answer(200, data, content_type="text/event-stream; charset=utf-8")


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """A server that is not MyLLM, or speaks a part of it."""
    told = Stranger()
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            told.asked.append((self.command, self.path, self.headers, body))
            if told.is_silent:
                is_over.wait(30)
                return
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told.body)  # HTTP/1.0: the end of the connection ends it

        do_GET = do_POST = do_DELETE = do_PATCH = answer

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    told.url = f"http://127.0.0.1:{httpd.server_port}"
    yield told
    is_over.set()
    httpd.shutdown()
    httpd.server_close()
