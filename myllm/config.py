"""The settings, and the four places that they come from: defaults < TOML file < `MYLLM_*` environment < flags.

What none of these sets may still be said by Ollama's own variables (`ollama_environment.py`), over the defaults alone.
Every value, wherever it was written, is checked against the type and range of its field here, one key at a time, so
that an error can name the key, the value, the limit and the place. `EngineOptions` is the part of the settings that
shapes a loaded model: it is what travels to a worker, and what a model's own section may replace. Nothing here opens a
socket or a model.
`docs/config.example.toml` lists every setting; a test keeps the two equal.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
import platformdirs
from msgspec import Meta, Struct, field

from myllm.errors import ConfigInvalid, InvalidRequest
from myllm.ollama_environment import inherited
from myllm.quantities import parse_duration, parse_size

log = logging.getLogger(__name__)

DEFAULT_PORT = 8000
ENV_PREFIX = "MYLLM_"
NO_SETTINGS = {"home", "api_key"}  # variables that are looked at elsewhere; MYLLM_API_KEY is what the client verbs send
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Bytes = Annotated[int, Meta(ge=1, le=2**62)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0)]
Timeout = Annotated[float, Meta(gt=0)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]

KVCacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
FlashAttention = Literal["auto", "on", "off"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
OtherProgram = Literal["ollama", "lmstudio", "hub"]


class EngineOptions(Struct, frozen=True, kw_only=True):
    """How a model is loaded. 0 in context_size, parallel and threads, and -1 in gpu_layers, let the engine choose."""

    context_size: Count = 0  # tokens, shared by all sequences
    parallel: Annotated[int, Meta(ge=0, le=MAX_SEQUENCES)] = 0
    threads: Annotated[int, Meta(ge=0, le=512)] = 0
    gpu_layers: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = -1
    batch_size: Positive = 2048  # tokens of one llama_decode
    ubatch_size: Positive = 512  # tokens of one pass over the weights
    kv_cache_type: KVCacheType = "f16"
    flash_attention: FlashAttention = "auto"
    max_gap_ms: Positive = 100  # how long one step may hold up running streams for somebody's prompt
    main_gpu: Count = 0
    tensor_split: tuple[Annotated[float, Meta(ge=0, le=1e6)], ...] = ()
    mmap: bool = True
    mlock: bool = False


class ModelSection(EngineOptions, frozen=True, kw_only=True):
    """The keys that a `[models."NAME"]` table takes. It is only a schema: what a table left out stays unset."""

    load: bool = False
    pin: bool = False
    keep_alive: Seconds = 300.0
    template: Text = "auto"
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.8
    top_k: Count = 40
    top_p: Share = 0.95
    min_p: Share = 0.05
    typical_p: Share = 1.0
    repeat_penalty: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 0
    max_tokens: Positive = 1
    stop: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()


SAMPLING_KEYS = frozenset(ModelSection.__struct_fields__) - {*EngineOptions.__struct_fields__, "load", "pin", "keep_alive", "template"}


class ServiceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A service: the path prefix that it answers under, and patterns (`devstral*`) of the models that it offers."""

    prefix: Annotated[str, Meta(pattern=r"^/.*[^/]$")]
    models: tuple[Text, ...] = ("*",)


class Settings(EngineOptions, frozen=True, kw_only=True):
    """Every setting. Durations are seconds (`math.inf` = for ever), sizes are bytes, None is off, unset or automatic.

    The engine's options are inherited: as settings they hold for each model whose own section does not replace them.
    """

    host: Text = "127.0.0.1"
    port: Port = DEFAULT_PORT  # 0 = any free one
    ollama_host: Text | None = None  # where the Ollama port listens, if elsewhere than `host`
    ollama_port: Port | None = None
    ollama_port_required: bool = True  # False: where the port is in use, serve on without it
    ui_port: Port | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    api_keys: tuple[Text, ...] = ()
    cors_origins: tuple[Text, ...] = ()
    allowed_hosts: tuple[Text, ...] = ()
    log_level: LogLevel = "info"
    default_model: Text | None = None
    models: tuple[Text, ...] = ()  # loaded at start
    model_sections: dict[str, dict[str, Any]] = field(default_factory=dict)  # only the keys that each table gave
    model_dirs: tuple[Path, ...] = ()
    in_place: tuple[OtherProgram, ...] = ("ollama", "lmstudio", "hub")  # whose models are used where they lie
    keep_alive: Seconds = 300.0
    memory_budget: Bytes | None = None
    queue_size: Positive = 512
    request_timeout: Timeout = 1800.0
    keepalive_comment_s: Timeout = 15.0
    drain_timeout_s: Seconds = 30.0
    load_timeout_s: Timeout = 600.0
    hang_timeout_s: Timeout = 120.0
    max_body_bytes: Bytes = 20_000_000
    max_messages: Positive = 10_000
    services: dict[str, ServiceSettings] = field(default_factory=dict)

    def section(self, model_name: str) -> dict[str, Any]:
        """What the model's own table gives; its name is compared without case and without `:latest`."""
        if model_name in self.model_sections:
            return self.model_sections[model_name]
        return next((given for name, given in self.model_sections.items() if _plain(name) == _plain(model_name)), {})

    def engine_options(self, model_name: str, made_with: Mapping[str, Any] | None = None) -> EngineOptions:
        """The general engine options; over them those that the model was made with, and then its own section's."""
        given = {**(made_with or {}), **self.section(model_name)}
        return EngineOptions(**{key: given.get(key, getattr(self, key)) for key in EngineOptions.__struct_fields__})

    def sampling_defaults(self, model_name: str) -> dict[str, Any]:
        """The sampling parameters that the model's own section sets, by the names of `SamplingParams`."""
        return {key: value for key, value in self.section(model_name).items() if key in SAMPLING_KEYS}

    def keep_alive_s(self, model_name: str) -> float:
        """How long the model stays loaded after its last request; `math.inf` for ever."""
        seconds: float = self.section(model_name).get("keep_alive", self.keep_alive)
        return seconds

    def template(self, model_name: str) -> str | None:
        """The name or the file of the chat template that replaces the model's own."""
        return self.section(model_name).get("template")

    def is_pinned(self, model_name: str) -> bool:
        """A pinned model is never evicted for another."""
        return bool(self.section(model_name).get("pin", False))


def load_settings(*, file: Path | None = None, env: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings from all four places; a flag that is None was not given. Raises ConfigInvalid."""
    given = (_from_file(file) if file else {}) | _from_env(env) | _from_flags(flags or {})
    settings = Settings(**_from_ollama(env, given) | given)
    _check_together(settings)
    return settings


def home_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where models, sessions, keys and caches live: `MYLLM_HOME`, else the platform's folder for user data."""
    given = env.get("MYLLM_HOME", "")
    return Path(given).expanduser().absolute() if given else platformdirs.user_data_path("myllm", appauthor=False)


def client_base_url(env: Mapping[str, str] = os.environ, *, base_url: str | None = None) -> str:
    """Where a client finds the server, without a closing slash: `base_url`, if it is given, else `MYLLM_HOST`.

    Both are read as a server reads the variable, so one serves both; with a scheme it is taken as the URL that it
    is, and an address that means every interface becomes the loopback one.
    """
    written, origin = (base_url, "base_url") if base_url else (env.get("MYLLM_HOST", "") or "127.0.0.1", "MYLLM_HOST")
    host, port = _split_host(written, origin)
    url = urlsplit(written) if "://" in written else None
    if url is None and port is None:
        port = _read_text("port", env.get("MYLLM_PORT") or DEFAULT_PORT, Port, "MYLLM_PORT")
    place = reachable(host) if port is None else f"{reachable(host)}:{port}"
    return f"{url.scheme if url else 'http'}://{place}{url.path.rstrip('/') if url else ''}"


def reachable(host: str) -> str:
    """The host as a URL of a client on this machine names it: of every interface the loopback one, an IPv6 address in brackets."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _from_file(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigInvalid(f"the settings file {file} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigInvalid(f"the settings file {file} is not TOML: {exc}") from exc
    _refuse_unknown(table, _SETTING_TYPES, str(file))
    table = _with_port_of_host(table, str(file))
    sections: dict[str, dict[str, Any]] = {}
    if isinstance(table.get("models"), dict):
        sections = _read_sections(table["models"], str(file))
        table["models"] = [name for name, section in sections.items() if section.get("load")]
    return {key: _read_value(key, value, _SETTING_TYPES[key], str(file)) for key, value in table.items()} | {"model_sections": sections}


def _read_sections(tables: dict[str, Any], file: str) -> dict[str, dict[str, Any]]:
    """The `[models."NAME"]` tables, checked key by key."""
    sections = {}
    for name, table in tables.items():
        origin = f'[models."{name}"] of {file}'
        if not isinstance(table, dict):
            hint = 'models is a list of names, or tables [models."NAME"] with load = true in those to load at start'
            raise ConfigInvalid(f"models.{name} in {file} is {table!r}; {hint}", param="models")
        _refuse_unknown(table, _SECTION_TYPES, origin)
        sections[name] = {key: _read_value(key, value, _SECTION_TYPES[key], origin) for key, value in table.items()}
    return sections


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    texts = {variable.removeprefix(ENV_PREFIX).lower(): text for variable, text in env.items() if variable.startswith(ENV_PREFIX)}
    for key in texts.keys() - _SETTING_TYPES.keys() - NO_SETTINGS:
        # Not an error, as in the file: other programs may use the prefix.
        log.warning("MYLLM_%s is no setting; the nearest name is MYLLM_%s", key.upper(), _nearest(key, _SETTING_TYPES).upper())
    known = _with_port_of_host({key: text for key, text in texts.items() if key in _SETTING_TYPES}, "MYLLM_HOST")
    return {key: _read_text(key, text, _SETTING_TYPES[key], f"{ENV_PREFIX}{key.upper()}") for key, text in known.items()}


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(flags, _SETTING_TYPES, "the flags")
    given = _with_port_of_host({key: value for key, value in flags.items() if value is not None}, "--host")
    return {key: _read_text(key, value, _SETTING_TYPES[key], f"--{key.replace('_', '-')}") for key, value in given.items()}


def _from_ollama(env: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What Ollama's variables add; one that cannot be read is left out with a warning, for it was not written for us."""
    found = {}
    for key, text, variable in inherited(env, given):
        try:
            found[key] = _read_text(key, text, _SETTING_TYPES[key], variable)
        except ConfigInvalid as exc:
            log.warning("%s; it is left out", exc.message)
    return found


def _refuse_unknown(table: Mapping[str, Any], known: Mapping[str, Any], origin: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigInvalid(f"unknown setting {key!r} in {origin}; the nearest name is {_nearest(key, known)!r}", param=key)


def _with_port_of_host(values: dict[str, Any], origin: str) -> dict[str, Any]:
    """Take the port out of `host = "0.0.0.0:9000"`, unless the same place sets the port itself."""
    if not isinstance(values.get("host"), str):
        return values
    host, port = _split_host(values["host"], origin)
    return ({"port": port} if port is not None else {}) | values | {"host": host}


def _split_host(written: str, origin: str) -> tuple[str, int | None]:
    """Host and port of `0.0.0.0`, `0.0.0.0:9000`, `::1`, `[::1]:9000` or `http://127.0.0.1:8000`."""
    is_bare_ipv6 = written.count(":") > 1 and not written.startswith("[") and "://" not in written
    try:
        url = urlsplit(written if "://" in written else f"//[{written}]" if is_bare_ipv6 else f"//{written}")
        host, port = url.hostname, url.port
    except ValueError as exc:
        raise ConfigInvalid(f"host in {origin} is {written!r}: {exc}", param="host") from exc
    if not host or url.username is not None or url.scheme not in ("", "http", "https") or re.search(r"\s", written):
        raise ConfigInvalid(f"host in {origin} is {written!r}; write an address, address:port or http://address:port", param="host")
    return host, port


def _read_value(key: str, written: Any, hint: Any, origin: str) -> Any:
    """What the file says, as its field's type."""
    try:
        return msgspec.convert(_PARSERS[key](written) if key in _PARSERS else written, hint, dec_hook=_to_path)
    except (ValueError, InvalidRequest) as exc:
        shown = "(hidden)" if key == "api_keys" else repr(written)[:100]
        raise ConfigInvalid(f"{key} in {origin} is {shown}; {_limit(exc, hint)}", param=key) from exc


def _read_text(key: str, written: Any, hint: Any, origin: str) -> Any:
    """What a variable or a flag says, as its field's type; there, text stands for numbers, booleans and lists too."""
    is_plain_text = isinstance(written, str) and key not in _PARSERS
    return _read_value(key, _from_text(written, hint) if is_plain_text else written, hint, origin)


def _limit(exc: Exception, hint: Any) -> str:
    """What the field takes, in a clause: a literal's values, or msgspec's own account of type and range."""
    kind = msgspec.inspect.type_info(hint)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return f"it takes {', '.join(map(str, kind.values))}"
    if isinstance(kind, msgspec.inspect.VarTupleType) and isinstance(kind.item_type, msgspec.inspect.LiteralType):
        return f"it takes a list of {', '.join(map(str, kind.item_type.values))}"
    return re.sub(r"^Expected", "it takes", str(exc)).replace("`", "")


def _from_text(text: str, hint: Any) -> Any:
    """Text as what the field's type is in TOML; text that is nothing of the kind is left for the type check to name."""
    kind = msgspec.inspect.type_info(hint)
    try:
        match kind:
            case msgspec.inspect.BoolType():
                return _BOOLEANS.get(text.strip().lower(), text)
            case msgspec.inspect.IntType():
                return int(text)
            case msgspec.inspect.DictType():
                return json.loads(text)
            case msgspec.inspect.VarTupleType(item_type=item):
                listed = json.loads(text) if text.lstrip().startswith("[") else [part.strip() for part in text.split(",") if part.strip()]
                return [float(part) for part in listed] if isinstance(item, msgspec.inspect.FloatType) else listed
            case _:
                return text
    except (ValueError, TypeError, RecursionError):
        return text


def _to_path(hint: type, value: Any) -> Any:
    if hint is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value).expanduser()
    raise ValueError("it takes a path")


def _check_together(settings: Settings) -> None:
    """What no single value shows: a key without its certificate, two listeners on one port, two services on one prefix."""
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise ConfigInvalid(f"ssl_keyfile is {settings.ssl_keyfile}, but ssl_certfile is not set; HTTPS needs both", param="ssl_certfile")
    if settings.ollama_host and settings.ollama_port is None:
        raise ConfigInvalid(f"ollama_host is {settings.ollama_host}, but ollama_port is not set; set both", param="ollama_port")
    _check_distinct("listeners share port", [port for port in (settings.port, settings.ollama_port, settings.ui_port) if port])
    _check_distinct("services share prefix", [service.prefix for service in settings.services.values()])


def _check_distinct(claim: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigInvalid(f"two {claim} {value}; give each its own")


def _nearest(key: str, names: Iterable[str]) -> str:
    return difflib.get_close_matches(key.lower(), names, n=1, cutoff=0.0)[0]


def _plain(model_name: str) -> str:
    return model_name.casefold().removesuffix(":latest")


_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _on_or_off(value: Any) -> Any:
    state = value if isinstance(value, bool) else _BOOLEANS.get(_lower(value))
    return _lower(value) if state is None else "on" if state else "off"


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _port_or_none(value: Any) -> Any:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    return None if number in (0, "") and not isinstance(number, bool) else number


_DURATIONS = ("keep_alive", "request_timeout", "keepalive_comment_s", "drain_timeout_s", "load_timeout_s", "hang_timeout_s")
# What a value passes before its type is checked: TOML has no null, no durations and no sizes.
_PARSERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_DURATIONS, parse_duration),
    **dict.fromkeys(("ollama_port", "ui_port"), _port_or_none),
    **dict.fromkeys(("default_model", "ollama_host", "ssl_certfile", "ssl_keyfile"), lambda value: None if value == "" else value),
    **dict.fromkeys(("kv_cache_type", "log_level"), _lower),
    "flash_attention": _on_or_off,
    "memory_budget": lambda value: parse_size(value) or None,
    "max_body_bytes": parse_size,
    "stop": lambda value: [value] if isinstance(value, str) else value,
    "top_k": lambda value: 0 if value == -1 else value,
}
_SETTING_TYPES: dict[str, Any] = {k: v for k, v in get_type_hints(Settings, include_extras=True).items() if k != "model_sections"}
_SECTION_TYPES: dict[str, Any] = get_type_hints(ModelSection, include_extras=True)
