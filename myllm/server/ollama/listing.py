"""Models as `tags` and `ps` list them: Ollama's names, digests without a prefix, and its words for what a model can do. Pure."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable

from msgspec.structs import replace

from myllm.loaded_model import LoadedModel
from myllm.server.ollama.answers import RunningList, RunningModel, TagList
from myllm.server.ollama.names import shown_name
from myllm.server.tags import Tag, details_of, tags_of
from myllm.sessions import iso_time
from myllm.store.store import InstalledModel

FOR_EVER_S = 2**63 / 1e9  # the longest duration that Go knows, 292 years: clients read it as for ever
OF_OLLAMA = ("completion", "vision", "tools", "insert", "thinking")


def tag_list(installed: Iterable[InstalledModel]) -> TagList:
    """Newest first."""
    return TagList([_tag(tag) for tag in tags_of(installed)])


def running_list(loaded: Iterable[LoadedModel]) -> RunningList:
    """The longest to stay first; what is still loading is not there yet."""
    now = time.time()
    ready = sorted((model for model in loaded if model.worker), key=lambda model: -_stay_s(model, now))
    return RunningList([_running(model, now) for model in ready])


def capabilities(ours: Container[str]) -> tuple[str, ...]:
    """A model that can write is not told as one for embeddings, although it makes some: clients sort models by this."""
    return tuple(word for word in OF_OLLAMA if word in ours) or ("embedding",)


def bare_digest(digest: str) -> str:
    return digest.removeprefix("sha256-").removeprefix("sha256:")


def _tag(tag: Tag) -> Tag:
    name = shown_name(tag.name)
    return replace(tag, name=name, model=name, digest=bare_digest(tag.digest), capabilities=capabilities(tag.capabilities))


def _running(model: LoadedModel, now: float) -> RunningModel:
    name, on_gpus = shown_name(model.name), model.reserved.gpu
    return RunningModel(
        name=name,
        model=name,
        size=model.memory_bytes + on_gpus,
        digest=bare_digest(model.installed.digest),
        details=details_of(model.installed),
        expires_at=iso_time(now + _stay_s(model, now)),
        size_vram=on_gpus,
        context_length=model.plan.context_length,
    )


def _stay_s(model: LoadedModel, now: float) -> float:
    """How long it stays if nobody asks; one in use stays its whole time from now on."""
    stay_s = model.keep_alive_s if model.expires_at is None else model.expires_at - now
    return FOR_EVER_S if model.is_pinned else min(max(stay_s, 0.0), FOR_EVER_S)
