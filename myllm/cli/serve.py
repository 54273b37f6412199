"""`myllm serve`: settings from their four places, a log for people, and the lines that tell a newcomer what to try."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from myllm.cli.home import complete_model, config_file
from myllm.cli.terminal import say
from myllm.errors import ConfigInvalid

if TYPE_CHECKING:
    from myllm.config import Settings

log = logging.getLogger("myllm.server")

NOT_YET = ("ui_port",)
_STOPPING = "stopping: running requests may finish (Ctrl-C again to stop at once)"
_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 is any free one.", show_default="8000")] = None,
    ollama_port: Annotated[int | None, typer.Option(help="Port of its own for the Ollama API, usually 11434.", show_default="none")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file.", show_default="config.toml in MYLLM_HOME")] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Load this model at the start; may be repeated.", autocompletion=complete_model)
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of context of a model, shared by its sequences.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Most sequences of a model at once.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for the calculation.", show_default="physical cores")] = None,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers on the GPU; -1 is all that fit.", show_default="-1")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error or critical.", show_default="info")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Ask for this key; it may do everything. May be repeated. Users of this machine see it; MYLLM_API_KEYS hides it.",
        ),
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate, to serve HTTPS.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="The certificate's key.")] = None,
) -> None:
    """Start the server. It loads models when they are asked for; Ctrl-C stops it.

    Settings come from a file, from MYLLM_... in the environment and from these options; the later one wins.

    \b
    Example: myllm serve --port 9000 --model tiny
    """
    from myllm.config import home_folder, load_settings

    flags = {
        "host": host, "port": port, "ollama_port": ollama_port, "models": model or None, "context_size": context,
        "parallel": parallel, "threads": threads, "gpu_layers": gpu_layers, "log_level": log_level, "api_keys": api_key or None,
        "ssl_certfile": _text(ssl_certfile), "ssl_keyfile": _text(ssl_keyfile),
    }  # fmt: skip
    log_to_stderr()
    settings = load_settings(file=config or config_file(), flags=flags)
    logging.getLogger().setLevel(settings.log_level.upper())
    refuse_unsupported(settings)
    _serve_until_signal(settings, home_folder())


def _serve_until_signal(settings: Settings, home: Path) -> None:
    signal.signal(signal.SIGTERM, _leave)  # uvicorn drains first, then lets the signal do what it did before
    try:
        from myllm.server.run import serve as serve_http

        serve_http(settings, home, lambda urls: greet(urls, home, needs_key=bool(settings.api_keys) or has_stored_keys(home)))
    except KeyboardInterrupt:
        logging.getLogger(__name__).info("stopped")


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def refuse_unsupported(settings: Settings) -> None:
    """Raises ConfigInvalid for a setting that this version knows and cannot honour: silence could expose a server."""
    given = [name for name in NOT_YET if getattr(settings, name)]
    if given:
        raise ConfigInvalid(f"{', '.join(given)}: not supported in this version yet; take it out of the settings", param=given[0])


def has_stored_keys(home: Path) -> bool:
    from myllm.keys import KeyStore

    with contextlib.closing(KeyStore(home / "keys.db")) as store:
        return bool(store.list())


def greet(urls: list[str], home: Path, *, needs_key: bool) -> None:
    """What to try, once requests are answered. urls: the main port's, then the Ollama API's own where there is one."""
    from myllm import __version__
    from myllm.config import client_base_url

    url, *others = urls
    key = " -H 'Authorization: Bearer KEY'" if needs_key else ""
    place = "" if client_base_url() == url else f"MYLLM_HOST={url} "
    question = '{"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}], "stream": true}'
    say(f"MyLLM {__version__} is ready at {url}", bold=True, fg="green")
    for other in others:
        say(f"the Ollama API is at {other}", fg="green")
    say(f"models: {home / 'models'}")
    say("\nTry it from another terminal:")
    say(f"  {place}myllm run tiny", fg="cyan")
    say(f"  curl {url}/api/chat{key} -d '{question}'", fg="cyan")
    if needs_key:
        say("\nKeys are on: `myllm keys list` tells which, and the verbs send the one that MYLLM_API_KEY holds.")
    elif os.environ.get("MYLLM_API_KEY"):
        log.warning("MYLLM_API_KEY is what clients send, and no key is configured here; use MYLLM_API_KEYS or `myllm keys create`")
    say("\nCtrl-C stops the server.\n")
    sys.stdout.flush()


def log_to_stderr() -> None:
    """One line a record, time and level first. uvicorn's own remarks are left out, but for what a person waits for."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    handler.addFilter(_is_for_people)
    logging.basicConfig(handlers=[handler], force=True)


class _LineFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever a request's path holds: a line break in it would forge another record."""
        line = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in super().formatMessage(record))
        colour = _COLOURS.get(record.levelno) if sys.stderr.isatty() else None
        return typer.style(line, fg=colour) if colour else line


def _is_for_people(record: logging.LogRecord) -> bool:
    if not record.name.startswith("uvicorn"):
        return True
    if "to close" in record.msg:
        record.msg, record.args = _STOPPING, ()
        return True
    if "without completing handshake" in record.msg:
        return False  # a WebSocket that was refused has its line in the access log; a stranger shall not fill ours with errors
    return record.levelno > logging.INFO and not _tells_of_cancelling(record)


def _tells_of_cancelling(record: logging.LogRecord) -> bool:
    """A second Ctrl-C cancels requests and the application; uvicorn reports those as failures, with stack traces."""
    is_raised = record.exc_info is not None and record.exc_info[0] is not None and record.exc_info[0].__name__ == "CancelledError"
    return is_raised or "CancelledError" in record.getMessage()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
