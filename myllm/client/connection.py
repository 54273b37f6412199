"""`Connection`: where the server is and how it is spoken to. All of a request that needs no network, shared by both clients.

It is also the border where httpx's errors and the server's become those of `myllm.errors`: nothing of httpx leaves this room.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from myllm import __version__
from myllm.client.calls import Call, StreamCall
from myllm.config import client_base_url
from myllm.errors import BY_CODE, ConfigInvalid, InvalidRequest, MyLLMError, NotFound, ServerUnreachable, SessionNotFound, Unauthorized

T = TypeVar("T")

CONNECT_S = 5.0
QUICK_S = 30.0  # for what needs no model
_OF_PROXIES = (502, 504)  # without a reason they come from what stands in front of a server
_CLASSES = {kind.status: kind for kind in reversed(BY_CODE.values())}  # the tree's order: of a status, the general one wins


class _Refusal(Struct):
    detail: str


class Connection:
    """base_url, api_key: what None means is `MYLLM_HOST`, `MYLLM_API_KEY`. timeout: seconds that a read may wait, None to choose."""

    def __init__(self, base_url: str | None, api_key: str | None, timeout: float | None) -> None:
        self.base_url = client_base_url(base_url=base_url)
        self._key = (os.environ.get("MYLLM_API_KEY", "") if api_key is None else api_key).strip()
        self._timeout = timeout
        if not (self._key.isascii() and self._key.isprintable()):
            place = "MYLLM_API_KEY" if api_key is None else "api_key"
            raise ConfigInvalid(f"{place} has characters that no header can carry; set it to what `myllm keys create` printed")

    def settings(self) -> dict[str, Any]:
        """What httpx's clients, of both kinds, are made with."""
        authorization = {"authorization": f"Bearer {self._key}"} if self._key else {}
        return {
            "base_url": self.base_url,
            "headers": {"user-agent": f"myllm-python/{__version__}", "content-type": "application/json", **authorization},
            # Made here, because reading the certificates takes longer than most calls, and with the environment's, whatever follows.
            "verify": httpx.create_ssl_context() if self.base_url.startswith("https") else False,
            # No proxy of the environment stands between this machine and itself.
            "trust_env": not is_this_machine(urlsplit(self.base_url).hostname or ""),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),  # the server has the limits
        }

    def request(self, call: Call[Any] | StreamCall[Any, Any]) -> dict[str, Any]:
        """The arguments of httpx's `request` and `stream`. Raises InvalidRequest for text that cannot be sent."""
        read_s = self._timeout if self._timeout is not None or call.takes_long else QUICK_S
        timeout = httpx.Timeout(read_s, connect=CONNECT_S if read_s is None else min(CONNECT_S, read_s))
        try:
            content = None if call.body is None else msgspec.json.encode(call.body)
        except UnicodeEncodeError as exc:
            raise InvalidRequest(f"a text holds half a character, which cannot be sent: {exc}") from exc
        return {"method": call.method, "url": call.path, "content": content, "timeout": timeout}

    def read(self, call: Call[T], response: httpx.Response) -> T:
        """What the server answered. Raises its error, or ServerUnreachable for an answer that is none of a MyLLM server."""
        if not response.is_success and response.status_code not in call.accepts:
            raise self.error(call, response)
        try:
            return call.read(response.content)
        except ValueError as exc:
            raise self._stranger(str(exc)) from exc

    def check_events(self, response: httpx.Response) -> None:
        """Raises ServerUnreachable where a stream was asked for and something else comes."""
        kind = response.headers.get("content-type", "nothing")
        if not kind.startswith("text/event-stream"):
            raise self._stranger(f"{kind} came where events were asked for")

    def error(self, call: Call[Any] | StreamCall[Any, Any], response: httpx.Response) -> MyLLMError:
        """The server's error in its own words; others (a proxy, another program on this port) have none."""
        status, seconds = response.status_code, response.headers.get("retry-after", "")
        try:
            detail = msgspec.json.decode(response.content, type=_Refusal).detail
        except ValueError:
            kind = MyLLMError if status in _OF_PROXIES else _CLASSES.get(status, MyLLMError)
            detail = f"{self.base_url} answered {status} and no reason; is it a MyLLM server?"
        else:
            detail += "; set MYLLM_API_KEY to a key, and this program sends it" if status == Unauthorized.status and not self._key else ""
            guessed = _missing(call.missing, detail) if status == NotFound.status else _CLASSES.get(status, MyLLMError)
            kind = BY_CODE.get(response.headers.get("x-error-code", ""), guessed)
        return kind(detail, retry_after_s=int(seconds) if re.fullmatch("[0-9]{1,9}", seconds) else None)

    @contextmanager
    def translated(self) -> Iterator[None]:
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

    def _stranger(self, why: str) -> ServerUnreachable:
        return ServerUnreachable(f"what answers at {self.base_url} is no MyLLM server; check MYLLM_HOST ({why})")


def is_this_machine(host: str) -> bool:
    """Is it a name or an address that means the machine itself?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _missing(expected: type[NotFound], detail: str) -> type[NotFound]:
    """What a 404 is about. A chat may miss its model or its session, and an older server the whole endpoint."""
    if detail.startswith("no such path"):
        return NotFound
    return SessionNotFound if detail.startswith("session ") else expected
