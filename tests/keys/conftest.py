"""A key store in a fresh folder for each test, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from keys.clock import Clock

from myllm.keys import Key, KeyStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[KeyStore]:
    with closing(KeyStore(path, clock)) as opened:
        yield opened


@pytest.fixture
def make(store: KeyStore) -> Callable[..., Key]:
    """A key of the store."""

    def make_key(name: str = "alice", **limits: int) -> Key:
        key = store.find(store.create(name, **limits).encode())
        assert key is not None
        return key

    return make_key
