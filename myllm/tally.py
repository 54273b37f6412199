"""`Tally`: the tokens that each model has worked through since the server started, over all the workers that it had."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from myllm.worker.handle import Worker


@dataclass
class Worked:
    """prompt_tokens were evaluated; cached_tokens of prompts were not, for they were in the cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0

    def add(self, worker: Worker) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(worker.stats, name))


class Tally:
    """A worker counts for itself and takes its counters with it when it ends; here they are kept."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._past: defaultdict[str, Worked] = defaultdict(Worked)

    def add(self, worker: Worker) -> None:
        """Count this one too, from its first token to its last."""
        self._put_away()
        self._workers.append(worker)

    def totals(self) -> dict[str, Worked]:
        """By model; also of models that are no longer loaded."""
        self._put_away()
        totals: defaultdict[str, Worked] = defaultdict(Worked)
        for name, past in self._past.items():
            totals[name] = Worked(**vars(past))
        for worker in self._workers:
            totals[worker.name].add(worker)
        return dict(totals)

    def _put_away(self) -> None:
        """Those that have ended say no more."""
        for worker in self._workers:
            if not worker.is_alive:
                self._past[worker.name].add(worker)
        self._workers = [worker for worker in self._workers if worker.is_alive]
