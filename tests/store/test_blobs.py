from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections import namedtuple
from pathlib import Path

import pytest

from myllm.errors import InsufficientStorage, InvalidRequest, MyLLMError
from myllm.store.blobs import UNUSED_S, BlobStore

Usage = namedtuple("Usage", "free")
CONTENT = b"some weights"


class FullDisk(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def upload(blobs: BlobStore, content: bytes) -> Path:
    with blobs.begin(digest_of(content), len(content)) as writer:
        writer.write(content)
        return writer.commit()


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def make_old(path: Path) -> None:
    then = time.time() - UNUSED_S - 60
    os.utime(path, (then, then))


@pytest.fixture
def records() -> list[bytes]:
    """What the records say; a test may add to it."""
    return []


@pytest.fixture
def blobs(tmp_path: Path, records: list[bytes]) -> BlobStore:
    return BlobStore(tmp_path / "blobs", lambda: b"".join(records))


def test_what_was_sent_in_pieces_lies_under_its_digest(blobs: BlobStore) -> None:
    assert not blobs.has(digest_of(CONTENT))

    with blobs.begin(digest_of(CONTENT)) as writer:
        for byte in CONTENT:
            writer.write(bytes([byte]))
        path = writer.commit()

    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert left_in(blobs.folder) == [digest_of(CONTENT).replace(":", "-")]
    assert blobs.has(digest_of(CONTENT).replace(":", "-").upper().replace("SHA", "sha"))


def test_content_of_another_digest_is_refused_and_leaves_nothing(blobs: BlobStore) -> None:
    with pytest.raises(InvalidRequest, match='digest mismatch, expected "sha256:') as refused, blobs.begin(digest_of(b"other")) as writer:
        writer.write(CONTENT)
        writer.commit()

    assert digest_of(CONTENT) in refused.value.message
    assert left_in(blobs.folder) == []


def test_an_upload_that_breaks_off_leaves_nothing(blobs: BlobStore) -> None:
    with pytest.raises(ConnectionError), blobs.begin(digest_of(CONTENT)) as writer:
        writer.write(CONTENT[:3])
        raise ConnectionError

    assert left_in(blobs.folder) == []


NO_DIGESTS = ("", "sha256:", "sha256:../../../etc/passwd", f"md5:{'0' * 64}", f"sha256-{'0' * 63}", f"sha256:{'g' * 64}")
NEARLY_DIGESTS = (f"sha256:{'0' * 64}\n", f"sha256:{'0' * 63}/", f"../sha256-{'0' * 64}", "x" * 1_000_000)


@pytest.mark.parametrize("digest", [*NO_DIGESTS, *NEARLY_DIGESTS])
def test_what_is_no_digest_never_becomes_a_path(blobs: BlobStore, digest: str) -> None:
    for act in (blobs.has, blobs.path, blobs.begin):
        with pytest.raises(InvalidRequest, match="invalid digest format") as refused:
            act(digest)
        assert len(refused.value.message) < 300

    assert left_in(blobs.folder) == []


def test_two_uploads_of_one_digest_side_by_side_are_both_right(blobs: BlobStore) -> None:
    with blobs.begin(digest_of(CONTENT)) as first, blobs.begin(digest_of(CONTENT)) as second:
        for byte in CONTENT:
            first.write(bytes([byte]))
            second.write(bytes([byte]))

        assert first.commit() == second.commit()

    assert blobs.path(digest_of(CONTENT)).read_bytes() == CONTENT
    assert len(left_in(blobs.folder)) == 1


def test_an_upload_that_finds_no_room_is_refused_with_both_numbers_before_it_begins(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, lambda: b"", disk_usage=lambda folder: Usage(1_000))

    with pytest.raises(InsufficientStorage, match=r"1,001 bytes .* 1,000 are free"):
        blobs.begin(digest_of(CONTENT), 1_001)

    assert left_in(tmp_path) == []


def test_a_disk_that_is_full_in_the_middle_is_told_and_leaves_nothing(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with blobs.begin(digest_of(CONTENT)) as writer:
        monkeypatch.setattr(writer, "_file", FullDisk())

        with pytest.raises(InsufficientStorage, match="full"):
            writer.write(CONTENT)

    assert left_in(blobs.folder) == []


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(MyLLMError, match="cannot be used"):
        BlobStore(tmp_path / "file" / "blobs", lambda: b"").begin(digest_of(CONTENT))


def test_what_no_record_names_goes_after_a_day_when_the_next_upload_begins(blobs: BlobStore, records: list[bytes]) -> None:
    used, unused, fresh = (upload(blobs, content) for content in (b"used", b"unused", b"fresh"))
    broken_off, split = blobs.folder / ".upload-abc", blobs.folder / f".split-{'0' * 16}"
    broken_off.write_bytes(b"half")
    split.mkdir()
    (split / "model-00001-of-00002.gguf").write_bytes(b"part")
    stranger = blobs.folder / "notes.txt"
    stranger.write_text("not ours")
    for path in (used, unused, broken_off, split, stranger):
        make_old(path)
    records.append(f'{{"path": "/elsewhere/{used.name}"}}'.encode())

    upload(blobs, b"new")

    assert left_in(blobs.folder) == sorted([used.name, fresh.name, stranger.name, blobs.path(digest_of(b"new")).name])


def test_what_somebody_asks_for_stays_for_another_day(blobs: BlobStore) -> None:
    path = upload(blobs, CONTENT)
    make_old(path)

    assert blobs.has(digest_of(CONTENT))
    blobs.prune()

    assert path.exists()


def test_nothing_goes_while_the_records_cannot_be_read(tmp_path: Path) -> None:
    def unreadable() -> bytes:
        raise PermissionError("no")

    blobs = BlobStore(tmp_path, unreadable)
    path = upload(blobs, CONTENT)
    make_old(path)

    blobs.prune()

    assert path.exists()


def test_a_file_of_ours_becomes_a_blob_under_the_digest_of_its_content(blobs: BlobStore) -> None:
    with blobs.temporary() as file:
        file.write_bytes(CONTENT)
        path = blobs.adopt(file)

    assert path == blobs.path(digest_of(CONTENT))
    assert left_in(blobs.folder) == [path.name]


def test_a_temporary_file_that_is_not_adopted_goes(blobs: BlobStore) -> None:
    with pytest.raises(RuntimeError), blobs.temporary() as file:
        file.write_bytes(CONTENT)
        raise RuntimeError

    assert left_in(blobs.folder) == []


def test_the_parts_of_a_split_model_stand_side_by_side_in_order_and_go_together(blobs: BlobStore) -> None:
    digests = [digest_of(content) for content in (b"one", b"two")]
    for content in (b"two", b"one", b"another model"):
        upload(blobs, content)

    first = blobs.join(digests)
    again = blobs.join(digests)

    assert first == again and first.name == "model-00001-of-00002.gguf"
    assert [part.read_bytes() for part in sorted(first.parent.iterdir())] == [b"one", b"two"]
    assert all(blobs.has(digest) for digest in digests)
    blobs.delete(first)
    assert left_in(blobs.folder) == [blobs.path(digest_of(b"another model")).name]


def test_where_files_cannot_be_linked_the_parts_themselves_move(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("a file system without links")

    monkeypatch.setattr(os, "link", refuse)
    for content in (b"one", b"two"):
        upload(blobs, content)

    first = blobs.join([digest_of(b"one"), digest_of(b"two")])

    assert [part.read_bytes() for part in sorted(first.parent.iterdir())] == [b"one", b"two"]
    assert left_in(blobs.folder) == [first.parent.name]
