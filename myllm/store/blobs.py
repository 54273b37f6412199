"""`BlobStore`: files that clients send to make models of, each called by the SHA-256 of its content.

    models/blobs/sha256-HEX              a whole file
    models/blobs/.split-KEY/model-…      the parts of a split model under the names by which llama.cpp finds them
    models/blobs/.upload-…, .quantized-… what is being written

Nothing has a blob's name before its content was checked, so two uploads of one digest do not meet. A digest is a
stranger's word: it is checked before it becomes a path. A file that no record names goes when nobody has touched it for
a day; that is looked after each time an upload begins.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from myllm.errors import InsufficientStorage, InvalidRequest, MyLLMError
from myllm.store.metadata import shard_paths

log = logging.getLogger(__name__)

UNUSED_S = 86_400.0  # how long an upload waits for its `create`
TOUCH_EVERY_S = 3_600.0
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_OURS = re.compile(r"sha256-[0-9a-f]{64}|\.split-[0-9a-f]{16}|\.(upload|quantized)-\w+")


class DiskUsage(Protocol):
    @property
    def free(self) -> int: ...


class BlobStore:
    """The blobs of one folder. mentioned: all records as written; a blob whose name occurs in them is used.

    disk_usage: asked for the free space of the folder.
    """

    def __init__(
        self, folder: Path, mentioned: Callable[[], bytes], *, disk_usage: Callable[[Path], DiskUsage] = shutil.disk_usage
    ) -> None:
        self.folder = folder
        self.disk_usage = disk_usage
        self._mentioned = mentioned

    def path(self, digest: str) -> Path:
        """Where the content with this digest (`sha256:…` or `sha256-…`) lies, or would. Raises InvalidRequest."""
        match = _DIGEST.fullmatch(digest)
        if not match:
            raise InvalidRequest(f"invalid digest format: {digest[:100]!r} is not sha256: and 64 hexadecimal digits", param="digest")
        return self.folder / f"sha256-{match[1].lower()}"

    def has(self, digest: str) -> bool:
        """Whether the content is here; if so it stays for a day from now on, for somebody is about to use it."""
        path = self.path(digest)
        try:
            if time.time() - path.stat().st_mtime > TOUCH_EVERY_S:
                os.utime(path)
        except OSError:
            return False
        return True

    def begin(self, digest: str, size: int | None = None) -> BlobWriter:
        """A new upload. size: its bytes, where they are known. Raises InvalidRequest, InsufficientStorage."""
        destination = self.path(digest)
        self.prune()
        self.check_room(size or 0, "the upload")
        with _disk_errors(self.folder):
            return BlobWriter(destination, *tempfile.mkstemp(prefix=".upload-", dir=self.folder))

    def check_room(self, num_bytes: int, what: str) -> None:
        """Raises InsufficientStorage with both numbers where so many bytes do not fit."""
        with _disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = self.disk_usage(self.folder).free
        if num_bytes > free:
            message = f"{what} needs {num_bytes:,} bytes in {self.folder}, and {free:,} are free there"
            raise InsufficientStorage(f"{message}; make room and try again")

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A file to write to; gone afterwards unless it was adopted."""
        with _disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".quantized-", dir=self.folder)
            os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def adopt(self, file: Path) -> Path:
        """Make a file of ours a blob: brought to the disk, hashed and renamed."""
        with _disk_errors(self.folder), file.open("rb") as opened:
            os.fsync(opened.fileno())
            hexdigest = hashlib.file_digest(opened, "sha256").hexdigest()
            return _settle(file, self.folder / f"sha256-{hexdigest}")

    def join(self, digests: Sequence[str]) -> Path:
        """The first of the parts of a split model, linked under the names by which llama.cpp finds the others."""
        key = hashlib.sha256(" ".join(self.path(digest).name for digest in digests).encode()).hexdigest()[:16]
        folder = self.folder / f".split-{key}"
        parts = [folder / f"model-{number:05}-of-{len(digests):05}.gguf" for number in range(1, len(digests) + 1)]
        with _disk_errors(self.folder):
            folder.mkdir(exist_ok=True)
            os.utime(folder)
            for digest, part in zip(digests, parts, strict=True):
                if not part.exists():
                    _link(self.path(digest), part)
        return parts[0]

    def holds(self, path: Path) -> bool:
        return path.is_relative_to(self.folder)

    def delete(self, path: Path) -> None:
        """Delete a model's file, and of a split one all parts under both of their names."""
        parts = shard_paths(path)
        with _disk_errors(self.folder):
            states = [part.stat() for part in parts if part.exists()]
            others = [blob for blob in self.folder.glob("sha256-*") if any(os.path.samestat(blob.stat(), state) for state in states)]
            for file in {*parts, *others}:
                file.unlink(missing_ok=True)
            if path.parent != self.folder:
                shutil.rmtree(path.parent, ignore_errors=True)

    def prune(self) -> None:
        """Remove what nobody has touched for a day and no record names, uploads that broke off among it."""
        try:
            mentioned = self._mentioned()
            for entry in list(os.scandir(self.folder)):
                age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if _OURS.fullmatch(entry.name) and age_s > UNUSED_S and entry.name.encode() not in mentioned:
                    log.info("removing %s: no model has used it for %.0f hours", entry.path, age_s / 3600)
                    _remove(entry)
        except OSError as exc:  # somebody else tidies up as well, or may do so the next time
            log.info("unused files in %s stay for now: %s", self.folder, exc)


class BlobWriter:
    """One upload. Feed it with `write`, end it with `commit`; leaving the context without that leaves nothing behind."""

    def __init__(self, destination: Path, handle: int, temporary: str) -> None:
        self._destination = destination
        self._file = os.fdopen(handle, "wb")
        self._temporary = Path(temporary)
        self._hasher = hashlib.sha256()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._temporary.unlink(missing_ok=True)
        try:
            self._file.close()
        except OSError:  # what it still held finds no room, and is not wanted any more
            log.debug("%s was given up", self._temporary)

    def write(self, data: bytes) -> None:
        """Raises InsufficientStorage where the disk is full."""
        self._hasher.update(data)
        with _disk_errors(self._temporary.parent):
            self._file.write(data)

    def commit(self) -> Path:
        """Check the content and give it its name. Raises InvalidRequest where it has another digest."""
        expected, got = self._destination.name.replace("-", ":"), f"sha256:{self._hasher.hexdigest()}"
        if got != expected:
            raise InvalidRequest(f'digest mismatch, expected "{expected}", got "{got}"; send the file again', param="digest")
        with _disk_errors(self._temporary.parent):
            self._file.flush()
            os.fsync(self._file.fileno())
            return _settle(self._temporary, self._destination)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """The border where the system's errors become ours."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientStorage(f"the disk of {folder} is full; make room and try again") from exc
        raise MyLLMError(f"the folder {folder} cannot be used: {exc.strerror or exc}") from exc


def _settle(file: Path, destination: Path) -> Path:
    file.chmod(0o644)  # made for us alone; a model is for everybody who may see its folder
    os.replace(file, destination)
    return destination


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)


def _link(blob: Path, part: Path) -> None:
    try:
        os.link(blob, part)
    except FileExistsError:  # made by another request since we looked
        return
    except OSError:  # a file system without links: the blob itself moves there
        os.replace(blob, part)
