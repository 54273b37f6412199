from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from store.gguf_files import write_gguf

from myllm.errors import ModelLoadFailed
from myllm.store.metadata_cache import MetadataCache


@pytest.fixture
def cache_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "metadata.msgpack"


def test_a_second_process_knows_the_file_without_opening_it(tmp_path: Path, cache_file: Path) -> None:
    model = write_gguf(tmp_path / "a.gguf")
    first = MetadataCache(cache_file)
    metadata = first.read(model)
    first.save()
    _keep_times(model, lambda: model.write_bytes(b"x" * model.stat().st_size))

    assert MetadataCache(cache_file).read(model) == metadata


def test_a_file_that_changed_is_read_anew(tmp_path: Path, cache_file: Path) -> None:
    model = write_gguf(tmp_path / "a.gguf", general__name="before")
    cache = MetadataCache(cache_file)
    cache.read(model)
    write_gguf(model, general__name="after")
    os.utime(model, ns=(1, 1))

    assert cache.read(model).name == "after"


def test_a_broken_file_is_opened_once_and_read_when_it_is_repaired(
    tmp_path: Path, cache_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "a.gguf"
    model.write_bytes(b"half a file")
    cache = MetadataCache(cache_file)

    for _ in range(3):
        with pytest.raises(ModelLoadFailed):
            cache.read(model)
    write_gguf(model)

    assert cache.read(model).architecture == "llama"
    assert len(caplog.records) == 1


def test_a_file_that_another_thread_reads_while_the_cache_is_saved_is_kept_for_the_next_time(
    tmp_path: Path, cache_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries grew while they were gone through, and of several pulls at once one ended with a stack trace."""
    cache = MetadataCache(cache_file)
    cache.read(write_gguf(tmp_path / "a.gguf"))
    later = write_gguf(tmp_path / "b.gguf")

    def exists(path: str) -> bool:
        reading = threading.Thread(target=cache.read, args=(later,))
        reading.start()
        reading.join()
        return Path(path).is_file()

    with monkeypatch.context() as patch:
        patch.setattr("myllm.store.metadata_cache.os.path.exists", exists)
        cache.save()
    cache.save()

    monkeypatch.setattr("myllm.store.metadata_cache.read_metadata", pytest.fail)
    assert MetadataCache(cache_file).read(later).architecture == "llama"


def test_files_that_are_gone_leave_the_cache(tmp_path: Path, cache_file: Path) -> None:
    gone, kept = write_gguf(tmp_path / "gone.gguf"), write_gguf(tmp_path / "kept.gguf")
    cache = MetadataCache(cache_file)
    cache.read(gone)
    cache.read(kept)
    gone.unlink()

    cache.save()

    assert str(gone).encode() not in cache_file.read_bytes()
    assert str(kept).encode() in cache_file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 100, b"\x92\x01\x80", b"\x92\x63\x80", b"\x92\x01\x81\xa1a\x01"])
def test_a_damaged_cache_file_only_costs_time(tmp_path: Path, cache_file: Path, content: bytes) -> None:
    cache_file.parent.mkdir()
    cache_file.write_bytes(content)

    assert MetadataCache(cache_file).read(write_gguf(tmp_path / "a.gguf")).architecture == "llama"


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = MetadataCache(tmp_path / "cache" / "metadata.msgpack")
    cache.read(write_gguf(tmp_path / "a.gguf"))

    cache.save()

    assert "cannot be written" in caplog.text


def _keep_times(path: Path, change: object) -> None:
    before = path.stat()
    assert callable(change)
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
