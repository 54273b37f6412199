"""`Listeners`: several ports, one application; `PrefixRoots`: a prefix with and without its slash.

What came in on a dialect's own port is served as if its path had the prefix. A client that was told of port 11434 asks for
`/api/tags` and is answered by `/ollama/api/tags`: the same routes, guards, keys and error forms, because from here on it is the
same path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Listeners:
    """prefixes: by the port that a request arrived at; other ports are the main one."""

    def __init__(self, app: ASGIApp, prefixes: Mapping[int, str]) -> None:
        self.app = app
        self.prefixes = prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = self.prefixes.get((scope.get("server") or ("", 0))[1])
        if prefix is not None:
            path, raw_path = prefix + scope["path"], scope.get("raw_path")
            scope = {**scope, "path": path, "raw_path": prefix.encode() + raw_path if raw_path is not None else None}
        await self.app(scope, receive, send)


class PrefixRoots:
    """A dialect's prefix alone (`/ollama`) is its root (`/ollama/`), and not a redirect that a client may not follow."""

    def __init__(self, app: ASGIApp, prefixes: Collection[str]) -> None:
        self.app = app
        self.prefixes = frozenset(prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") in self.prefixes:
            scope = {**scope, "path": scope["path"] + "/"}
        await self.app(scope, receive, send)
