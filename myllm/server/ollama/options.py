"""`options`: Ollama's names, types and defaults, as what our sampler, our engine and one request's window understand.

A value of the wrong type or out of range is refused with Ollama's sentence. A name that is not known is logged and left out,
as Ollama does: clients still send the names of samplers and loaders that are long gone (`mirostat`, `tfs_z`, `low_vram`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from myllm.store.ollama_parameters import PARAMETER_NAMES, read_parameters

log = logging.getLogger("myllm.server")

SMALLEST_CONTEXT = 4  # what Ollama raises a smaller one to
NUM_KEEP = 4
MOST_SHOWN = 8  # names of unknown options in the log
# Ollama's own, by our names; a model's parameters go over them, and a request's over those.
DEFAULTS: dict[str, Any] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "penalty_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
AUTOMATIC = {"gpu_layers": -1, "threads": 0, "context_size": 0}  # the engine's to choose: no wish


class Options(Struct, frozen=True):
    """sampling and engine by our names; in sampling None lifts what a model's own parameters say.

    context_size: None is the model's. num_keep: tokens that a prompt keeps at its beginning if it must be cut; None is not given.
    """

    sampling: dict[str, Any]
    engine: dict[str, Any]
    context_size: int | None
    num_keep: int | None

    def sampling_over(self, model: Mapping[str, Any], longest: int) -> dict[str, Any]:
        """What a request asks of the sampler. model: the model's own parameters; longest: tokens of a whole context."""
        lifted = {"max_tokens": longest, "seed": secrets.randbits(31)}
        given = {name: lifted[name] if value is None else value for name, value in self.sampling.items()}
        asked = {name: value for name, value in given.items() if name in model or self.sampling[name] is not None}
        return {name: value for name, value in DEFAULTS.items() if name not in model} | asked


def read_options(written: Mapping[str, Any] | None) -> Options:
    """Raises InvalidRequest that names the option."""
    given = {name: value for name, value in (written or {}).items() if value is not None}
    if unknown := [name for name in given if name not in PARAMETER_NAMES]:
        shown = ", ".join(repr(name[:40]) for name in unknown[:MOST_SHOWN])
        log.warning("unknown options are left out, %s in all: %s", f"{len(unknown):,}", shown)
    read = read_parameters({name: value for name, value in given.items() if name in PARAMETER_NAMES}, "options")
    engine = {name: value for name, value in read.engine.items() if AUTOMATIC.get(name) != value}
    context_size = engine.pop("context_size", None)
    return Options(
        sampling=read.sampling,
        engine=engine,
        context_size=None if context_size is None else max(context_size, SMALLEST_CONTEXT),
        num_keep=read.num_keep,
    )
