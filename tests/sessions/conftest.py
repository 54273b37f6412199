"""A store in a fresh folder for each test, and a look into its file from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from myllm.sessions import SessionStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[SessionStore]:
    with closing(SessionStore(path)) as opened:
        yield opened


@pytest.fixture
def num_nodes(path: Path) -> Callable[[], int]:
    def count() -> int:
        with closing(sqlite3.connect(path)) as db:
            number: int = db.execute("SELECT count(*) FROM nodes").fetchone()[0]
        return number

    return count
