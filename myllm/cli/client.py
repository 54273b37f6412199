"""`Client`: the native HTTP API as the verbs need it, a method for each endpoint.

Answers are the server's JSON, as it came, so that `--json` prints every field that it sent. The server's errors are
raised as the classes of `myllm.errors` with its own words, and a connection that fails is ServerUnreachable; nothing of
httpx leaves this file. Verbs import it when they run: `myllm --help` must not wait for httpx.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec
from msgspec import Struct, field

from myllm import errors
from myllm.config import client_base_url
from myllm.errors import InvalidRequest, MyLLMError, NotFound, ServerUnreachable

JSON = dict[str, Any]

QUICK = httpx.Timeout(30, connect=5)
PATIENT = httpx.Timeout(None, connect=5)  # loading and generating take as long as they take; the server has the limits
_ERRORS: dict[int, type[MyLLMError]] = {
    400: InvalidRequest, 401: errors.Unauthorized, 403: errors.Forbidden, 404: NotFound, 409: errors.Conflict, 503: errors.Unavailable,
}  # fmt: skip


class Ending(Struct):
    """What the last event of a chat tells."""

    usage: dict[str, int] = field(default_factory=dict)
    finish_reason: str | None = None
    truncated_messages: int = 0


class _ChatEvent(Ending):
    token: str = ""
    done: bool = False
    error: str | None = None


class Answer:
    """A streaming answer: iterate for its text, piece by piece; `ending` is there when the iteration has ended."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.ending = Ending()
        self._chunks = chunks

    def __iter__(self) -> Iterator[str]:
        for data in read_events(self._chunks):
            event = msgspec.json.decode(data, type=_ChatEvent)
            if event.error is not None:
                raise MyLLMError(event.error)
            if event.done:
                self.ending = event
                return
            yield event.token
        raise ServerUnreachable("the server ended the answer before it was complete; its log may say why")


class Client:
    """The server at `base_url`, `MYLLM_HOST`'s by default. Close it, or use it in a `with`. Threads may share it."""

    def __init__(self, base_url: str | None = None) -> None:
        self.base_url = base_url or client_base_url()
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=QUICK,
            verify=self.base_url.startswith("https"),  # reading the system's certificates takes longer than most verbs
            mounts=_past_proxies(self.base_url),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._http.close()

    def is_there(self) -> bool:
        """Does a server answer? It may be one that is still starting."""
        try:
            self.status()
        except ServerUnreachable:
            return False
        return True

    def status(self) -> JSON:
        return self._call("GET", "/api/status")

    def models(self) -> list[JSON]:
        models: list[JSON] = self._call("GET", "/api/models")["models"]
        return models

    def model(self, name: str) -> JSON:
        return self._call("GET", f"/api/models/{_in_path(name)}")

    def load(self, name: str, options: JSON) -> JSON:
        """Returns when the model is loaded."""
        return self._call("POST", f"/api/models/{_in_path(name)}/load", options, timeout=PATIENT)

    def unload(self, name: str) -> JSON:
        """Returns when the requests that the model answers have ended."""
        return self._call("POST", f"/api/models/{_in_path(name)}/unload", timeout=PATIENT)

    def delete_model(self, name: str) -> JSON:
        return self._call("DELETE", f"/api/models/{_in_path(name)}", timeout=PATIENT)

    def check_options(self, options: JSON) -> None:
        """Raises InvalidRequest for an option out of range, without generating.

        The server judges a request's options before it looks for the model, and no model has an empty name.
        """
        try:
            self._call("POST", "/api/generate", {"model": "", "prompt": "", "options": options})
        except NotFound:
            return

    def chat_whole(self, body: JSON) -> JSON:
        return self._call("POST", "/api/chat", {**body, "stream": False}, timeout=PATIENT)

    @contextmanager
    def chat(self, body: JSON) -> Iterator[Answer]:
        """A streaming chat; leaving the context early stops the generation."""
        content = msgspec.json.encode({**body, "stream": True})
        with self._translated(), self._http.stream("POST", "/api/chat", content=content, timeout=PATIENT) as response:
            if not response.is_success:
                response.read()
                raise self._error(response)
            yield Answer(response.iter_raw())

    def sessions(self, limit: int) -> list[JSON]:
        """Newest first."""
        sessions: list[JSON] = self._call("GET", f"/api/sessions?limit={limit}")["sessions"]
        return sessions

    def session(self, session_id: str) -> JSON:
        return self._call("GET", f"/api/sessions/{_in_path(session_id)}")

    def delete_session(self, session_id: str) -> JSON:
        return self._call("DELETE", f"/api/sessions/{_in_path(session_id)}")

    def fork_session(self, session_id: str, at: int | None = None) -> JSON:
        return self._call("POST", f"/api/sessions/{_in_path(session_id)}/fork", {"at": at})

    def _call(self, method: str, path: str, body: JSON | None = None, timeout: httpx.Timeout = QUICK) -> JSON:
        content = None if body is None else msgspec.json.encode(body)
        with self._translated():
            response = self._http.request(method, path, content=content, timeout=timeout)
        if not response.is_success:
            raise self._error(response)
        try:
            return msgspec.json.decode(response.content, type=JSON)
        except msgspec.DecodeError as exc:
            raise ServerUnreachable(f"what answers at {self.base_url} is no MyLLM server; check MYLLM_HOST") from exc

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The border where httpx's errors become ours."""
        try:
            yield
        except httpx.ConnectError as exc:
            if "CERTIFICATE" in str(exc):
                hint = "SSL_CERT_FILE names a file with the certificates to trust"
                raise ServerUnreachable(f"the certificate of {self.base_url} is not trusted ({exc}); {hint}") from exc
            raise ServerUnreachable(f"no MyLLM server at {self.base_url}; start one with: myllm serve (or set MYLLM_HOST)") from exc
        except httpx.TimeoutException as exc:
            raise ServerUnreachable(f"the server at {self.base_url} did not answer in time") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ServerUnreachable(f"the connection to {self.base_url} broke: {exc}") from exc

    def _error(self, response: httpx.Response) -> MyLLMError:
        """The server's error in its own words; others (a proxy, another program on this port) have none."""
        try:
            detail = msgspec.json.decode(response.content, type=dict[str, str])["detail"]
        except (msgspec.DecodeError, KeyError):
            detail = f"{self.base_url} answered {response.status_code} and no reason; is it a MyLLM server?"
        return _ERRORS.get(response.status_code, MyLLMError)(detail)


def read_events(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event, without the comments.

    Not httpx's `iter_lines`: it also ends lines at U+2028 and its kin, which an answer may hold.
    """
    pending = b""
    for chunk in chunks:
        *events, pending = (pending + chunk).split(b"\n\n")
        yield from (event[6:] for event in events if event.startswith(b"data: "))


def _in_path(name: str) -> str:
    """A model's name or a session's id in a URL; `..` is escaped too, for it would lead to another endpoint."""
    parts = quote(name, safe="/:").split("/")
    return "/".join(part.replace(".", "%2E") if part in (".", "..") else part for part in parts)


def _past_proxies(base_url: str) -> dict[str, httpx.BaseTransport | None]:
    """No proxy of the environment stands between this machine and itself."""
    host = urlsplit(base_url).hostname or ""
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    return {f"all://{f'[{host}]' if ':' in host else host}": None} if is_here else {}
