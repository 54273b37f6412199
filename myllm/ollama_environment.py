"""Ollama's own environment variables as texts for our settings, so that a systemd unit which ran Ollama runs this server.

    OLLAMA_HOST             ollama_host and ollama_port: where the listener with the Ollama dialect at its root is
    OLLAMA_KEEP_ALIVE       keep_alive
    OLLAMA_CONTEXT_LENGTH   context_size
    OLLAMA_ORIGINS          cors_origins

They are read as Ollama reads them. OLLAMA_HOST moves the Ollama listener alone: that the variable opens Ollama's API to a
network says nothing about the main port, which does more. It is also what points Ollama's client at a server, so it may name
another machine, or a port where Ollama itself still runs: then this server starts without that listener and tells so.
OLLAMA_MODELS is read where Ollama's store is looked for (`store/in_place.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

OLLAMA_PORT = 11434
_PORTS = {"http": 80, "https": 443}  # of an address with a scheme and without a port
_VARIABLES = {"keep_alive": "OLLAMA_KEEP_ALIVE", "context_size": "OLLAMA_CONTEXT_LENGTH", "cors_origins": "OLLAMA_ORIGINS"}


class Inherited(NamedTuple):
    """A setting, what it shall be, and the variable that says so."""

    key: str
    text: str
    variable: str


def inherited(env: Mapping[str, str], given: Mapping[str, Any]) -> Iterator[Inherited]:
    """What Ollama's variables say of settings that are not `given` in any place of ours."""
    for key, variable in _VARIABLES.items():
        text = _clean(env, variable)
        if text and key not in given:
            yield Inherited(key, text, variable)
    written = _clean(env, "OLLAMA_HOST")
    if not written or given.get("ollama_port", OLLAMA_PORT) is None:  # unset, or we were told to do without the listener
        return
    host, port = _address(written)
    if not {"host", "ollama_host"} & given.keys():
        yield Inherited("ollama_host", host, "OLLAMA_HOST")
    if "ollama_port" not in given:
        yield Inherited("ollama_port", str(port), "OLLAMA_HOST")
        if "ollama_port_required" not in given:
            yield Inherited("ollama_port_required", "false", "OLLAMA_HOST")


def _address(written: str) -> tuple[str, int]:
    """Host and port of `0.0.0.0`, `:8080`, `[::1]:8080`, `::1` or `http://box:8080/`; a port that is none is the usual one."""
    scheme, separator, rest = written.partition("://")
    default = _PORTS.get(scheme, OLLAMA_PORT) if separator else OLLAMA_PORT
    rest = (rest if separator else written).split("/")[0]
    host, colon, port = rest.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):  # no port: a name, or an IPv6 address on its own
        return rest.strip("[]") or "127.0.0.1", default
    number = int(port) if port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 65_535 else default
    return host.strip("[]") or "0.0.0.0", number


def _clean(env: Mapping[str, str], variable: str) -> str:
    return env.get(variable, "").strip().strip("\"'").strip()
