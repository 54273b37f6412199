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
    """Local pages, and those of the setting `cors_origins` (`*` is everybody)."""
    if "*" in settings.cors_origins:
        return re.compile(".*")
    return re.compile("|".join([LOCAL_ORIGIN, *(re.escape(origin.rstrip("/")) for origin in settings.cors_origins)]), re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Is this the name or address of the machine itself, as only itself can reach it?"""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses with 403 and says which setting would allow it."""

    def __init__(self, app: ASGIApp, settings: Settings, origins: re.Pattern[str], render_error: ErrorForms) -> None:
        self.app = app
        self.render_error = render_error
        self.origins = origins
        self.hosts = {host.lower() for host in settings.allowed_hosts}
        self.checks_host = is_loopback(settings.host) and "*" not in self.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            problem = self.problem(scope.get("method", "WEBSOCKET"), Headers(scope=scope))
            if problem and scope["type"] == "http":
                await self.render_error(scope, Forbidden(problem))(scope, receive, send)
                return
            if problem:
                await send({"type": "websocket.close", "code": 1008, "reason": problem[:120]})
                return
        await self.app(scope, receive, send)

    def problem(self, method: str, headers: Headers) -> str | None:
        """What is wrong with where this request comes from."""
        host = (urlsplit(f"//{headers.get('host', '')}").hostname or "").lower() if self.checks_host else ""
        if self.checks_host and not (is_loopback(host) or host in self.hosts):
            return f"Host '{host}' is not this machine; add it to allowed_hosts to serve it"
        origin = headers.get("origin")
        if origin and method not in READS and not self.origins.fullmatch(origin):
            return f"Origin '{origin}' may not change anything here; add it to cors_origins to allow it"
        return None
