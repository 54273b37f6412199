from __future__ import annotations

import threading
from pathlib import Path

import pytest

from myllm.store.hub import RemoteFile
from myllm.store.pull_part import PIECE_BYTES, PartFile, completed_bytes

SIZE = 2 * PIECE_BYTES + 1000
FILE = RemoteFile("x.gguf", SIZE, "sha256:" + "1" * 64)


def never(completed: int) -> None:
    raise AssertionError("somebody else has the lock")


def opened(folder: Path, file: RemoteFile = FILE) -> PartFile:
    part = PartFile.open(folder / "x.part", file, folder / "x.gguf", never)
    assert part is not None
    return part


def test_what_was_written_is_there_for_the_next_one(tmp_path: Path) -> None:
    with opened(tmp_path) as part:
        part.write(0, b"abc")
        part.write(0, b"def")
        part.write(2, b"xyz")

    with opened(tmp_path) as part:
        assert (part.completed, part.frontier, part.missing()) == (9, 6, [0, 1, 2])
        assert part.read(0, 6) == b"abcdef"
        assert part.read(2 * PIECE_BYTES, 3) == b"xyz"
    assert completed_bytes(tmp_path / "x.part", FILE) == 9


def test_a_whole_part_becomes_the_file_without_its_ledger(tmp_path: Path) -> None:
    with opened(tmp_path) as part:
        for index in part.missing():
            start, end = part.bounds(index)
            part.write(index, bytes([index + 1]) * (end - start))
        is_whole = (part.missing(), part.frontier)
        part.seal()
        part.move(tmp_path / "x.gguf")

    assert is_whole == ([], SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
    assert (tmp_path / "x.gguf").stat().st_size == SIZE


@pytest.mark.parametrize("other", [RemoteFile("x.gguf", SIZE, "sha256:" + "2" * 64), RemoteFile("x.gguf", SIZE - 1, FILE.checksum)])
def test_a_part_of_other_content_is_worth_nothing(tmp_path: Path, other: RemoteFile) -> None:
    with opened(tmp_path) as part:
        part.write(0, b"abc")

    before = completed_bytes(tmp_path / "x.part", other)
    with opened(tmp_path, other) as part:
        assert (before, part.completed) == (0, 0)


@pytest.mark.parametrize("place", [0, 8, 47, 55])
def test_a_ledger_that_cannot_be_right_is_worth_nothing(tmp_path: Path, place: int) -> None:
    with opened(tmp_path) as part:
        part.write(0, b"abc")
    with (tmp_path / "x.part").open("r+b") as file:
        file.seek(SIZE + place)
        file.write(b"\xff")

    with opened(tmp_path) as part:
        assert part.completed == 0


@pytest.mark.parametrize("length", [0, 10, SIZE, SIZE + 47, SIZE + 50])
def test_a_part_that_was_cut_short_is_started_over(tmp_path: Path, length: int) -> None:
    with opened(tmp_path) as part:
        part.write(0, b"abc")
    with (tmp_path / "x.part").open("r+b") as file:
        file.truncate(length)

    with opened(tmp_path) as part:
        assert part.completed == 0


def test_a_link_in_the_parts_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    (tmp_path / "x.part").symlink_to(target)

    with pytest.raises(OSError):
        opened(tmp_path)

    assert target.read_bytes() == b"mine"


def test_one_who_waits_is_told_how_far_the_other_is_and_gets_none_when_it_is_done(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write(0, b"abc")
    seen: list[int] = []
    has_seen, results = threading.Event(), []

    def wait(completed: int) -> None:
        seen.append(completed)
        has_seen.set()

    thread = threading.Thread(target=lambda: results.append(PartFile.open(tmp_path / "x.part", FILE, tmp_path / "x.gguf", wait)))
    thread.start()
    assert has_seen.wait(10)
    first.move(tmp_path / "x.gguf")
    with first:
        pass
    thread.join()

    assert (seen[0], results) == (3, [None])
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]


def test_one_who_waits_takes_over_what_the_other_left(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write(0, b"abc")
    results: list[PartFile | None] = []
    waits = threading.Event()
    arguments = (tmp_path / "x.part", FILE, tmp_path / "x.gguf", lambda completed: waits.set())
    thread = threading.Thread(target=lambda: results.append(PartFile.open(*arguments)))
    thread.start()
    assert waits.wait(10)
    with first:
        pass
    thread.join()

    assert results[0] is not None
    with results[0] as part:
        assert part.completed == 3
