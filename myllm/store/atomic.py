"""Writing small files as a whole: a reader in another process, or a crash at any moment, sees all of it or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(file: Path, content: bytes) -> None:
    """Write `file`, whether it exists or not."""
    with _temporary(file, content) as temporary:
        os.replace(temporary, file)


def create_file(file: Path, content: bytes) -> None:
    """Write a new file; of two processes that try at once, one gets FileExistsError."""
    with _temporary(file, content) as temporary:
        try:
            os.link(temporary, file)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if file.exists():
                raise FileExistsError(str(file)) from None
            os.replace(temporary, file)


@contextmanager
def _temporary(file: Path, content: bytes) -> Iterator[str]:
    """The content, safe on disk in a file beside `file` that is gone afterwards."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)
