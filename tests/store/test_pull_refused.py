from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from store.gguf_files import write_gguf
from store.pull_world import FILE, MB, REPO, World, model_bytes

from myllm.errors import Conflict, DownloadFailed, Forbidden, InvalidRequest, ModelNotFound


@pytest.mark.parametrize("token", [None, "hf_of_somebody_else"])
def test_a_gated_repository_names_the_page_to_accept(world: World, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    world.hub.add(REPO, FILE, model_bytes())
    world.hub.gated.add(REPO)
    set_token(monkeypatch, token)

    with pytest.raises(Forbidden, match=rf"https://huggingface.co/{REPO}.*HF_TOKEN"):
        world.pull()

    assert (world.hub.num_served, world.left(), world.reports) == (0, [], [])


def test_a_token_opens_a_gated_repository_and_is_shown_to_nobody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())
    world.hub.gated.add(REPO)
    world.hub.token = "hf_right"
    set_token(monkeypatch, "hf_right")

    world.pull()  # the server of the content breaks the connection where it sees a token

    assert world.file().read_bytes() == content


def test_what_is_not_on_the_hub_is_not_found(world: World) -> None:
    world.hub.add(REPO, FILE, model_bytes())

    with pytest.raises(ModelNotFound, match="no repository 'org/Other'"):
        world.pull("org/Other")
    with pytest.raises(ModelNotFound, match=r"has no 'Q2_K'; it offers: Q4_K_M \(0.1 MB\)"):
        world.pull(f"{REPO}:Q2_K")
    with pytest.raises(ModelNotFound, match="some:7b"):
        world.pull("smoe")


@pytest.mark.parametrize("name", ["https://huggingface.co/org/x", "file:///etc/passwd", "../../etc/x", "org/../x.gguf", "-/x", "a/b/c/"])
def test_a_name_that_is_a_path_or_a_url_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidRequest):
        world.pull(name)

    assert world.left() == []


@pytest.mark.parametrize("promised", [-1, 1])
def test_a_server_that_sends_more_or_fewer_bytes_than_promised_installs_nothing(world: World, promised: int) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())
    size = len(content) + promised
    world.hub.promised[FILE] = {"size": size, "lfs": {"size": size, "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 1}}

    with pytest.raises(DownloadFailed, match=rf"has {len(content):,} bytes, and {size:,} were promised"):
        world.pull()

    assert [model.name for model in world.store().list()] == ["tiny"]
    assert sum(file.stat().st_size for file in world.home.glob("models/**/*.part")) < 2 * len(content)


def test_a_server_without_ranges_sends_the_file_whole(world: World) -> None:
    big = world.hub.add(REPO, FILE, model_bytes(40 * MB))
    world.hub.serves_ranges = False

    world.pull()

    assert world.file().read_bytes() == big


def test_what_is_no_gguf_file_is_refused_as_soon_as_it_begins(world: World) -> None:
    world.hub.add(REPO, FILE, b"<html>" + bytes(100 * MB))
    world.hub.rate = 50 * MB

    with pytest.raises(DownloadFailed, match="no GGUF file"):
        world.pull()

    assert world.left() == []
    assert world.hub.num_served < 50 * MB


@pytest.mark.parametrize("content", [b"GGUF" + bytes(5000), model_bytes(general__type="mmproj"), model_bytes()[:-1]])
def test_a_gguf_file_that_is_no_whole_model_is_refused_and_removed(world: World, content: bytes) -> None:
    world.hub.add(REPO, FILE, content)

    with pytest.raises(DownloadFailed, match="refused and removed"):
        world.pull()

    assert (world.left(), [model.name for model in world.store().list()]) == ([], ["tiny"])


def test_files_of_a_repository_that_would_climb_out_are_left_out(world: World) -> None:
    for path in (
        "../../x-Q4_K_M.gguf",
        "/etc/x-Q4_K_M.gguf",
        "a/../../x-Q4_K_M.gguf",
        ".x-Q4_K_M.gguf",
        "a\\x-Q4_K_M.gguf",
        "a//x-Q4_K_M.gguf",
    ):
        world.hub.add(REPO, path, model_bytes())

    with pytest.raises(ModelNotFound, match="no GGUF file"):
        world.pull(REPO)

    assert world.left() == []


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>captive portal</html>",
        b"[]",
        b'{"id": "../../x", "sha": "main", "siblings": []}',
        b'{"id": "org/Some-GGUF", "sha": null, "siblings": [{"size": 1}]}',
        b'{"siblings": [{"rfilename": "a.gguf", "lfs": {}}]}',
    ],
)
def test_what_is_no_listing_is_an_error_that_says_where_it_came_from(world: World, listing: bytes) -> None:
    world.hub.add(REPO, FILE, model_bytes())
    world.hub.raw_listing = listing

    with pytest.raises(DownloadFailed, match=world.hub.url):
        world.pull()


def test_a_file_of_somebody_else_is_not_overwritten(world: World) -> None:
    world.hub.add(REPO, FILE, model_bytes())
    mine = write_gguf(world.file(), rows=7).read_bytes()

    with pytest.raises(Conflict, match="move it away"):
        world.pull()

    assert world.file().read_bytes() == mine


def test_a_file_that_was_copied_there_by_hand_is_taken_if_it_is_the_right_one(world: World) -> None:
    content = world.hub.add(REPO, FILE, model_bytes())
    world.file().parent.mkdir(parents=True)
    world.file().write_bytes(content)

    world.pull()

    assert (world.hub.num_served, world.left()) == (0, [f"{REPO}/{FILE}"])


def test_a_name_that_means_another_model_is_not_taken_over(world: World, tmp_path: Path) -> None:
    world.hub.add(REPO, FILE, model_bytes())
    world.store().import_file(write_gguf(tmp_path / "mine.gguf"), "some:7b")

    with pytest.raises(Conflict, match=r"mine\.gguf"):
        world.pull("some-7b")

    assert world.hub.num_served == 0


def set_token(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", os.devnull)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)
