from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from store.gguf_files import write_gguf
from store.pull_world import FILE, MB, REPO, World, model_bytes

from myllm.errors import Conflict, HubUnreachable


def test_an_update_fetches_what_changed_and_nothing_else(world: World) -> None:
    world.hub.add(REPO, FILE, model_bytes())
    world.pull("some:7b")
    same = world.pull("some:7b")
    served = world.hub.num_served
    newer = world.hub.add(REPO, FILE, model_bytes(seed=2))
    world.puller().update("some", world.reports.append)

    origin = world.store().origin("some:7b")
    assert (same.path, served) == (world.file(), len(newer))
    assert world.file().read_bytes() == newer
    assert world.hub.num_served == 2 * len(newer)
    assert origin is not None and origin.revision == world.hub.commit(REPO)
    assert origin.checksums == (f"sha256:{hashlib.sha256(newer).hexdigest()}",)


def test_an_update_that_breaks_off_leaves_the_old_file(world: World, big: bytes) -> None:
    old = world.hub.add(REPO, FILE, model_bytes())
    world.pull("some:7b")
    world.hub.add(REPO, FILE, big)
    world.hub.cut_after = len(big) // 2

    with pytest.raises(HubUnreachable):
        world.pull("some:7b")

    assert world.file().read_bytes() == old
    assert [model.name for model in world.store().list()] == ["some:7b", "tiny"]


def test_what_was_not_pulled_cannot_be_updated(world: World, tmp_path: Path) -> None:
    world.store().import_file(write_gguf(tmp_path / "mine.gguf"))

    for name in ("tiny", "mine"):
        with pytest.raises(Conflict, match="not pulled from the Hub"):
            world.puller().update(name, world.reports.append)


def test_a_file_that_is_gone_or_cut_is_fetched_again(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())
    world.pull()
    world.file().write_bytes(content[:1000])

    world.pull()
    world.file().unlink()
    world.pull()

    assert world.file().read_bytes() == content
    assert world.hub.num_served == 3 * len(content)


def test_a_part_of_other_content_is_not_resumed(world: World, big: bytes) -> None:
    world.hub.add(REPO, FILE, big)
    world.hub.cut_after = len(big) // 2
    with pytest.raises(HubUnreachable):
        world.pull()
    world.hub.cut_after = None
    newer = world.hub.add(REPO, FILE, model_bytes(80 * MB, seed=3))

    world.pull()

    assert world.file().read_bytes() == newer
