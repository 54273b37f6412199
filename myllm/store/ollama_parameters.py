"""Ollama's parameters and ours: `num_predict` is `max_tokens`, `num_ctx` is `context_size`, and each has its range.

Some shape an answer and become fields of `SamplingParams`; others shape how the model is loaded and become fields of
`EngineOptions`; `num_keep` is a request's own. What a person writes is read strictly, so that a wrong name or value is told;
what another program has stored is read for what can be used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from myllm.errors import InvalidRequest

log = logging.getLogger(__name__)

MAX_STOPS, MAX_STOP_LETTERS = 16, 256
_MOST = 2**31 - 1


class Parameters(Struct):
    """By our names. None stands for what is lifted: `num_predict` -1 is no bound, whatever the model's own was."""

    sampling: dict[str, Any] = msgspec.field(default_factory=dict)
    engine: dict[str, Any] = msgspec.field(default_factory=dict)
    num_keep: int | None = None

    def over(self, other: Parameters) -> Parameters:
        """Those of another model with these laid over them."""
        return Parameters(
            _without_none({**other.sampling, **self.sampling}),
            _without_none({**other.engine, **self.engine}),
            other.num_keep if self.num_keep is None else self.num_keep,
        )


class _Parameter(NamedTuple):
    name: str
    kind: type[int] | type[float] | type[bool]
    least: float
    most: float


_SAMPLING = {
    "temperature": _Parameter("temperature", float, 0, 2),
    "top_k": _Parameter("top_k", int, -1, _MOST),
    "top_p": _Parameter("top_p", float, 0, 1),
    "min_p": _Parameter("min_p", float, 0, 1),
    "typical_p": _Parameter("typical_p", float, 0, 1),
    "repeat_penalty": _Parameter("repeat_penalty", float, 1e-6, 1e6),
    "repeat_last_n": _Parameter("penalty_last_n", int, -1, _MOST),
    "presence_penalty": _Parameter("presence_penalty", float, -2, 2),
    "frequency_penalty": _Parameter("frequency_penalty", float, -2, 2),
    "seed": _Parameter("seed", int, -(2**63), 2**63 - 1),
    "num_predict": _Parameter("max_tokens", int, -2, _MOST),
}
_ENGINE = {
    "num_ctx": _Parameter("context_size", int, 0, _MOST),
    "num_batch": _Parameter("batch_size", int, 1, _MOST),
    "num_gpu": _Parameter("gpu_layers", int, -1, _MOST),
    "main_gpu": _Parameter("main_gpu", int, 0, _MOST),
    "num_thread": _Parameter("threads", int, 0, 512),
    "use_mmap": _Parameter("mmap", bool, 0, 1),
    "use_mlock": _Parameter("mlock", bool, 0, 1),
}
_NUM_KEEP = _Parameter("num_keep", int, 0, _MOST)
PARAMETER_NAMES = frozenset({*_SAMPLING, *_ENGINE, "stop", "num_keep"})
# Names that Ollama once had and still takes without effect; old Modelfiles hold them.
RETIRED_NAMES = frozenset({"numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "embedding_only", "tfs_z", "penalize_newline"})
RETIRED_NAMES |= {"mirostat", "mirostat_eta", "mirostat_tau"}
_KINDS = {int: "integer", float: "float32", bool: "boolean"}  # the words of Ollama's errors


def read_parameters(written: Mapping[str, Any], field: str = "parameters") -> Parameters:
    """What somebody gave by Ollama's names; null is not given, and a retired name does nothing, as in Ollama.

    Raises InvalidRequest for an unknown name or a wrong value.

    field: what the request calls them, for the error's `param`.
    """
    read = Parameters()
    for name, value in written.items():
        if name in RETIRED_NAMES:
            log.warning("the parameter '%s' is left out: neither Ollama nor this server has it any more", name)
            continue
        if name not in PARAMETER_NAMES:
            shown, known = name[:40], ", ".join(sorted(PARAMETER_NAMES))
            raise InvalidRequest(f"there is no parameter {shown!r}; there are {known}", param=f"{field}.{shown}")
        if value is not None:
            _read_one(name, value, read, f"{field}.{name}")
    return read


def usable_parameters(written: Mapping[str, Any]) -> Parameters:
    """What can be used of what another program has stored; what has no counterpart or is out of range is left out."""
    read = Parameters()
    for name in PARAMETER_NAMES & written.keys():
        try:
            _read_one(name, _usable_stops(written[name]) if name == "stop" else written[name], read, name)
        except InvalidRequest:
            continue
    return read.over(Parameters())


def ollama_parameters(ours: Parameters) -> dict[str, Any]:
    """A model's parameters by Ollama's names, as `show` tells them; what Ollama has no name for is left out."""
    told = {name: ours.engine.get(parameter.name) for name, parameter in _ENGINE.items()}
    told |= {name: ours.sampling.get(parameter.name) for name, parameter in _SAMPLING.items()}
    return _without_none({**told, "stop": list(ours.sampling.get("stop") or ()) or None, "num_keep": ours.num_keep})


def _read_one(name: str, value: Any, read: Parameters, param: str) -> None:
    if name == "stop":
        read.sampling["stop"] = _stops(value, param)
    elif name == "num_keep":
        read.num_keep = int(_number(name, _NUM_KEEP, value, param))
    elif name in _ENGINE:
        read.engine[_ENGINE[name].name] = _number(name, _ENGINE[name], value, param)
    elif name in _SAMPLING:
        number = _number(name, _SAMPLING[name], value, param)
        read.sampling[_SAMPLING[name].name] = _ours(name, number, param)


def _number(name: str, parameter: _Parameter, value: Any, param: str) -> int | float | bool:
    """The value in its type and range. JSON knows one kind of number, so 40.0 is an integer too."""
    kind = parameter.kind
    is_number = isinstance(value, int | float) and isinstance(value, bool) == (kind is bool)
    if not is_number or (kind is int and value != value // 1):
        raise InvalidRequest(f'option "{name}" must be of type {_KINDS[kind]}', param=param)
    if not parameter.least <= value <= parameter.most:
        shown = f"{value:.10g}" if abs(value) < 2**63 else "out of range"
        raise InvalidRequest(f'option "{name}" is {shown}; it takes {parameter.least:.10g} to {parameter.most:.10g}', param=param)
    return kind(value)


def _ours(name: str, number: float, param: str) -> float | None:
    """Where Ollama's numbers mean something that ours say otherwise."""
    if name == "top_k":
        return max(number, 0)
    if name == "seed":
        return None if number == -1 else number
    if name == "num_predict" and number == 0:
        raise InvalidRequest('option "num_predict" is 0; it takes 1 or more, and -1 for no bound', param=param)
    return None if name == "num_predict" and number < 0 else number


def _stops(value: Any, param: str) -> tuple[str, ...]:
    listed = (value,) if isinstance(value, str) else value
    try:
        texts = msgspec.convert(listed, tuple[str, ...])
    except msgspec.ValidationError:
        raise InvalidRequest('option "stop" must be of type array of strings', param=param) from None
    if len(texts) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_LETTERS for text in texts):
        raise InvalidRequest(f'option "stop" takes up to {MAX_STOPS} texts of 1 to {MAX_STOP_LETTERS} letters', param=param)
    return texts


def _usable_stops(value: Any) -> list[str] | None:
    """None, which is no list of texts, where nothing can be used."""
    listed: Iterable[Any] = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in listed if isinstance(text, str) and 0 < len(text) <= MAX_STOP_LETTERS][:MAX_STOPS] or None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
