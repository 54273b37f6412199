from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store.pull_world import MB, World, model_bytes


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.hub.close()


@pytest.fixture(scope="session")
def big() -> bytes:
    """Three pieces."""
    return model_bytes(80 * MB)
