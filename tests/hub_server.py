"""A Hub on this machine: the part of the protocol that a pull speaks, over real HTTP, with faults to order.

    GET  /api/models/ORG/REPO?blobs=True          the listing: paths, sizes, checksums, the newest commit
    HEAD /ORG/REPO/resolve/COMMIT/FILE            302 to where the content lies, with size and checksum in its headers
    GET  …                                        the same; the content itself is at /cdn/…, by ranges

`python tests/hub_server.py FOLDER [BYTES_PER_SECOND]` serves FOLDER/ORG/REPO/FILE for a person to try.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BLOCK = 16 << 10


class HubServer:
    """The repositories are plain dicts; change them, or the faults, at any moment.

    cut_after: the connection breaks when so many bytes of content have been served in all. pause_after: serving stops there
    until `go_on` is called; `is_paused` tells that it is reached. promised: sizes and checksums to lie about, by path.
    gated: repositories whose listing is public and whose files need `token`. rate: bytes a second of each connection.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.small: set[str] = set()  # paths that git holds itself, without LFS
        self.gated: set[str] = set()
        self.token: str | None = None
        self.promised: dict[str, dict[str, Any]] = {}
        self.raw_listing: bytes | None = None
        self.serves_ranges = True
        self.cut_after: int | None = None
        self.pause_after: int | None = None
        self.failures: list[tuple[int, dict[str, str]]] = []  # answers to give before the content
        self.rate: int | None = None
        self.content_requests: list[str] = []
        self.num_served = 0
        self.num_connections = 0
        self.most_connections = 0
        self.is_paused = threading.Event()
        self._resume = threading.Event()
        self._lock = threading.Lock()
        self._known: dict[int, tuple[bytes, tuple[str, str]]] = {}
        self._httpd = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._httpd.server_address[1]}"
        threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(self, repository: str, path: str, content: bytes) -> bytes:
        self.files.setdefault(repository, {})[path] = content
        return content

    def commit(self, repository: str) -> str:
        """Another one whenever a file changes."""
        state = sorted((path, self._digests(content)[0]) for path, content in self.files[repository].items())
        return hashlib.sha1(json.dumps(state).encode()).hexdigest()

    def listing(self, repository: str) -> bytes:
        if self.raw_listing is not None:
            return self.raw_listing
        siblings = [self._sibling(path, content) for path, content in self.files[repository].items()]
        return json.dumps({"id": repository, "sha": self.commit(repository), "siblings": siblings}).encode()

    def count(self, num_bytes: int) -> bool:
        """Note that these bytes go out; False if the connection shall break instead."""
        with self._lock:
            if self.cut_after is not None and self.num_served + num_bytes > self.cut_after:
                return False
            must_wait = self.pause_after is not None and self.num_served + num_bytes > self.pause_after
            if not must_wait:
                self.num_served += num_bytes
        if must_wait:
            self.is_paused.set()
            self._resume.wait(60)
            with self._lock:
                self.num_served += num_bytes
        return True

    def enter(self, step: int) -> None:
        with self._lock:
            self.num_connections += step
            self.most_connections = max(self.most_connections, self.num_connections)

    def go_on(self) -> None:
        self.pause_after = None
        self._resume.set()

    def close(self) -> None:
        self.go_on()
        self._httpd.shutdown()
        self._httpd.server_close()

    def _digests(self, content: bytes) -> tuple[str, str]:
        """sha256, and what git calls the content."""
        if id(content) not in self._known:
            blob = hashlib.sha1(b"blob %d\0" % len(content))
            blob.update(content)
            self._known[id(content)] = (content, (hashlib.sha256(content).hexdigest(), blob.hexdigest()))
        return self._known[id(content)][1]

    def _sibling(self, path: str, content: bytes) -> dict[str, Any]:
        sha256, blob = self._digests(content)
        lfs = {} if path in self.small else {"lfs": {"size": len(content), "sha256": sha256, "pointerSize": 134}}
        return {"rfilename": path, "size": len(content), "blobId": blob, **lfs} | self.promised.get(path, {})


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is what the tests are about; anything else is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            self._content(*_split(path.removeprefix("/cdn/")))
        else:
            self._resolve(path)

    do_HEAD = do_GET

    def _list(self, repository: str) -> None:
        if repository not in self.hub.files:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(200, self.hub.listing(repository), {"Content-Type": "application/json"})

    def _resolve(self, path: str) -> None:
        repository, _, rest = path[1:].partition("/resolve/")
        _, _, file = rest.partition("/")
        if file not in self.hub.files.get(repository, {}):
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        given = self.headers.get("Authorization")
        if repository in self.hub.gated and (given is None or given != f"Bearer {self.hub.token}"):
            self._answer(401 if given is None else 403, b"", {"X-Error-Code": "GatedRepo"})
            return
        promised = self.hub._sibling(file, self.hub.files[repository][file])
        linked = {"X-Linked-Size": str(promised["size"]), "X-Linked-Etag": f'"{promised.get("lfs", {}).get("sha256", promised["blobId"])}"'}
        location = f"http://localhost:{self.server.server_address[1]}/cdn/{repository}/{file}"
        self._answer(302, b"", {"Location": location, "X-Repo-Commit": self.hub.commit(repository), **linked})

    def _content(self, repository: str, file: str) -> None:
        """From another host than the Hub's, as the real one: no token may be sent here."""
        assert self.headers.get("Authorization") is None
        if self.hub.failures:
            status, headers = self.hub.failures.pop(0)
            self._answer(status, b"", headers)
            return
        content = self.hub.files[repository][file]
        asked = self.headers.get("Range")
        self.hub.content_requests.append(asked or "whole")
        start, end = 0, len(content)
        if asked and self.hub.serves_ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, len(content))
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.hub.enter(1)
        try:
            self._send(memoryview(content)[start:end])
        finally:
            self.hub.enter(-1)

    def _send(self, content: memoryview) -> None:
        started, sent = time.monotonic(), 0
        for block in _blocks(content):
            if not self.hub.count(len(block)):
                self.close_connection = True
                return
            try:
                self.wfile.write(block)
            except OSError:  # the client has left
                self.close_connection = True
                return
            sent += len(block)
            if self.hub.rate:
                time.sleep(max(started + sent / self.hub.rate - time.monotonic(), 0))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _split(path: str) -> tuple[str, str]:
    organisation, repository, file = path.split("/", 2)
    return f"{organisation}/{repository}", file


def _blocks(content: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(content), BLOCK):
        yield content[start : start + BLOCK]


if __name__ == "__main__":
    served, folder = HubServer(), Path(sys.argv[1])
    for found in folder.glob("*/*/**/*.gguf"):
        organisation, repository, *rest = found.relative_to(folder).parts
        served.add(f"{organisation}/{repository}", "/".join(rest), found.read_bytes())
    served.rate = int(sys.argv[2]) if len(sys.argv) > 2 else None
    print(f"HF_ENDPOINT={served.url}", flush=True)
    threading.Event().wait()
