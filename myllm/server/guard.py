"""The guard against other people's web pages: who may talk to a server that has no keys.

A browser on this machine can be made to talk to 127.0.0.1 by any page. Two checks stop that: on a loopback bind the Host
header must be local (DNS rebinding), and a request that changes anything must come from an allowed origin or from no
page at all. Programs send no Origin and are not affected.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from myllm.config import Settings
from myllm.errors import Forbidden
from myllm.server.error_forms import ErrorForms

LOCAL_ORIGIN = r"https?://(localhost|[a-z0-9-]+\.localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?"
READS = ("GET", "HEAD", "OPTIONS")


def allowed_origins(settings: Settings) -> re.Pattern[str]:
    """Local pages, and those of the setting `cors_origins`: `*` is everybody, and in an origin any letters but `/`."""
    if "*" in settings.cors_origins:
        return re.compile(".*")
    given = [re.escape(origin.rstrip("/")).replace(r"\*", "[^/]*") for origin in settings.cors_origins]
    return re.compile(f"(?i:{'|'.join([LOCAL_ORIGIN, *given])})")  # in the pattern itself, for CORS reads that alone


def is_loopback(host: str) -> bool:
    """Is this the name or address of the machine itself, as only itself can reach it?"""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The name or address in a Host header, without its port; "" where there is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:  # half of an IPv6 address
        return ""


class Guard:
    """Refuses with 403 and says which setting would allow it."""

    def __init__(self, app: ASGIApp, settings: Settings, origins: re.Pattern[str], render_error: ErrorForms) -> None:
        self.app = app
        self.render_error = render_error
        self.origins = origins
        self.hosts = {host.lower() for host in settings.allowed_hosts}
        self.host = settings.host
        self.host_of_port = {settings.ollama_port: settings.ollama_host} if settings.ollama_host else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            port = (scope.get("server") or ("", None))[1]
            problem = self.problem(scope.get("method", "WEBSOCKET"), Headers(scope=scope), port)
            if problem and scope["type"] == "http":
                await self.render_error(scope, Forbidden(problem))(scope, receive, send)
                return
            if problem:
                await send({"type": "websocket.close", "code": 1008, "reason": problem[:120]})
                return
        await self.app(scope, receive, send)

    def problem(self, method: str, headers: Headers, port: int | None = None) -> str | None:
        """What is wrong with where this request comes from; port: where it arrived."""
        checks_host = is_loopback(self.host_of_port.get(port, self.host)) and "*" not in self.hosts
        host = host_of(headers.get("host", "")) if checks_host else ""
        if checks_host and not (is_loopback(host) or host in self.hosts):
            return f"Host '{host}' is not this machine; add it to allowed_hosts to serve it"
        origin = headers.get("origin")
        if origin and method not in READS and not self.origins.fullmatch(origin):
            return f"Origin '{origin}' may not change anything here; add it to cors_origins to allow it"
        return None
