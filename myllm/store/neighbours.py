"""`Neighbours`: the models of other programs under names that are free here. Our own models always keep theirs.

A model is called as its program calls it; where that name is taken, the program's is put before it (`ollama/llama3.2:3b`),
so nothing is hidden silently. It answers to shorter names too, as long as no other model has them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from myllm.config import OtherProgram
from myllm.errors import InvalidRequest
from myllm.store.in_place import FoundModel, Program
from myllm.store.names import LATEST, validate_name
from myllm.store.registry import Overlay

log = logging.getLogger(__name__)

FRESH_S = 1.0  # a request that names a model does not walk through three other programs' folders each time


class Neighbour(Struct, frozen=True):
    """Another program's model. owner: that program, for people. aliases: what else it may be called, if nobody else is."""

    name: str
    path: Path
    source: OtherProgram
    owner: str
    overlay: Overlay
    aliases: tuple[str, ...]


class Neighbours:
    """What the programs have on this machine."""

    def __init__(self, programs: Sequence[Program] = ()) -> None:
        self.programs = programs
        self._seen: tuple[float, list[_Sight]] = (-FRESH_S, [])
        self._told: set[Path] = set()

    def beside(self, names: Iterable[str], files: Iterable[Path], *, anew: bool) -> Iterator[Neighbour]:
        """Each model that is not one of ours, under a name that none of ours has; anew: look, even if we did a moment ago."""
        sights = self._look(anew)
        ours = {_identity(path) for path in files} if sights else set()
        taken = {_plain(name) for name in names}
        owners: dict[_Identity, Program] = {}  # of a file that two programs share, the first has it
        for program, model, file in sights:
            if file in ours or owners.setdefault(file, program) is not program:
                continue
            candidates = (*model.names, f"{program.source}/{model.names[0]}")
            name = next((name for name in candidates if _plain(name) not in taken and _is_valid(name)), None)
            if name is None:
                self._tell_once(program, model)
                continue
            taken.add(_plain(name))
            aliases = (*model.names, model.names[-1].rpartition("/")[2])
            yield Neighbour(name, model.path, program.source, program.title, model, aliases)

    def _look(self, anew: bool) -> list[_Sight]:
        looked_at, sights = self._seen
        if anew or time.monotonic() - looked_at > FRESH_S:
            sights = [_Sight(program, model, _identity(model.path)) for program in self.programs for model in program.models()]
            self._seen = (time.monotonic(), sights)
        return sights

    def _tell_once(self, program: Program, model: FoundModel) -> None:
        if model.path not in self._told:
            self._told.add(model.path)
            log.warning("the model '%s' of %s is left out: its name is taken or none that a model may have", model.names[0], program.title)


_Identity = tuple[int, int] | str  # device and inode, so that links and hard links are one; the path of what is not there


class _Sight(NamedTuple):
    program: Program
    model: FoundModel
    file: _Identity


def _identity(path: Path) -> _Identity:
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return str(path)
    return state.st_dev, state.st_ino


def _plain(name: str) -> str:
    return name.casefold().removesuffix(LATEST)


def _is_valid(name: str) -> bool:
    try:
        return bool(validate_name(name))
    except InvalidRequest:
        return False
