"""Starting and stopping: settings in, a listening server out; SIGINT and SIGTERM drain it.

The socket is bound before anything else, so that a port in use is a sentence and not a stack trace, and the line that
tells the address is printed when requests are answered.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from myllm.chat.library import TemplateLibrary, templates_folder
from myllm.config import Settings, reachable
from myllm.errors import ConfigInvalid
from myllm.keys import Keyring, KeyStore
from myllm.manager import ModelManager
from myllm.server.app import create_app
from myllm.server.guard import is_loopback
from myllm.server.readiness import Readiness
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.store.catalog import Catalog, bundled_model
from myllm.store.in_place import programs_in_place
from myllm.store.store import Store

log = logging.getLogger("myllm.server")


class Server(uvicorn.Server):
    """uvicorn, telling when it listens and when it begins to stop."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.readiness = readiness
        self.on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn closes WebSockets at once; the answers that run on them may finish first, as those over HTTP may."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.readiness.num_answers and not self.force_exit:
                    await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.readiness.status = "draining"
        super().handle_exit(sig, frame)


def serve(settings: Settings, home: Path, on_ready: Callable[[list[str]], None]) -> None:
    """Serve until a signal. on_ready gets the base URLs, the main one first, once requests are answered. Raises ConfigInvalid."""
    listeners = [bind(settings.host, settings.port), *_bind_ollama(settings)]
    home.mkdir(parents=True, exist_ok=True)
    programs = programs_in_place(settings.in_place)
    store = Store(home, model_dirs=settings.model_dirs, programs=programs, bundled=bundled_model(), catalog=Catalog.load())
    service = Service(
        settings, store, SessionStore(home / "sessions.db"), ModelManager(store, settings), TemplateLibrary(templates_folder())
    )
    keyring = Keyring(KeyStore(home / "keys.db"), settings.api_keys)
    for host in {settings.host, settings.ollama_host or settings.host}:
        if not is_loopback(host) and keyring.is_empty:
            log.warning("listening on %s with no API key: everybody who reaches this address can use this server", host)
    readiness = Readiness()
    drain_s = None if settings.drain_timeout_s == math.inf else max(int(settings.drain_timeout_s), 1)
    config = uvicorn.Config(
        create_app(service, readiness, keyring),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=2 * settings.max_body_bytes,  # what is a little too large is read, so that its sender hears why
        ws_ping_timeout=300.0,  # a client that reads only while it waits for an answer may be silent for long
        ws_per_message_deflate=False,  # small messages, mostly on this machine: it would cost more than it saves
        timeout_graceful_shutdown=drain_s,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        lifespan="on",
    )
    scheme = "https" if settings.ssl_certfile else "http"
    hosts = (settings.host, settings.ollama_host or settings.host)
    urls = [f"{scheme}://{reachable(host)}:{listener.getsockname()[1]}" for host, listener in zip(hosts, listeners, strict=False)]
    try:
        Server(config, readiness, lambda: on_ready(urls)).run(sockets=listeners)
    finally:
        keyring.close()


def _bind_ollama(settings: Settings) -> list[socket.socket]:
    """The Ollama dialect's own port, where one is set. A port in use stops the start, unless the setting says to serve without."""
    if settings.ollama_port is None:
        return []
    try:
        return [bind(settings.ollama_host or settings.host, settings.ollama_port, "--ollama-port")]
    except ConfigInvalid as error:
        if settings.ollama_port_required:
            raise ConfigInvalid(f"{error.message}, or set ollama_port_required = false to serve without it") from error
        log.error("%s; the Ollama API is served under /ollama on the main port only", error.message)
        return []


def bind(host: str, port: int, flag: str = "--port") -> socket.socket:
    """A bound socket; it listens once the server starts. Raises ConfigInvalid with the port's number."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(0)  # two servers may bind one port with SO_REUSEADDR; only one may listen
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigInvalid(f"port {port} on {host} is already in use; stop what uses it or choose another with {flag}") from exc
        raise ConfigInvalid(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
    return listener
