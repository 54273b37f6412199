"""What the tests of pulling share: a Hub, a home, a Puller between them, and files whose every byte matters."""

from __future__ import annotations

import io
import random
import tempfile
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

from hub_server import HubServer
from store.gguf_files import write_gguf

from myllm.store.catalog import Catalog, CatalogEntry, bundled_model
from myllm.store.hub import Hub
from myllm.store.pull import Puller
from myllm.store.pull_progress import Progress
from myllm.store.store import InstalledModel, Store

REPO = "org/Some-GGUF"
FILE = "some-Q4_K_M.gguf"
MB = 1_000_000
Usage = namedtuple("Usage", "free")

CATALOG = Catalog(
    (
        CatalogEntry(name="tiny", file="tiny.gguf", family="tiny", context=1, capabilities=("chat",), license="mit"),
        CatalogEntry(
            name="some:7b", repo=REPO, file=FILE, family="some", context=1, capabilities=("chat",), license="mit",
            template="chatml", aliases=("some-7b",),
        ),
    )
)  # fmt: skip


def model_bytes(num_bytes: int = 100_000, seed: int = 1, **keys: Any) -> bytes:
    """A model file of about this size whose weights are noise, so that bytes at a wrong place are noticed."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_gguf(Path(folder) / "x.gguf", rows=max(num_bytes // 64, 4), **keys)
        content = io.BytesIO(file.read_bytes())
    header = 4096
    if num_bytes > header:
        content.seek(header)
        content.write(random.Random(seed).randbytes(len(content.getbuffer()) - header))
    return content.getvalue()


class World:
    """`hub` serves, `home` is filled; each `puller()` is one more user of that home."""

    def __init__(self, folder: Path) -> None:
        self.hub = HubServer()
        self.home = folder / "home"
        self.free = 10**15
        self.reports: list[Progress] = []

    def store(self) -> Store:
        return Store(self.home, bundled=bundled_model(), catalog=CATALOG)

    def puller(self, connections: int = 4) -> Puller:
        hub = Hub(self.hub.url)
        return Puller(self.store(), hub, connections=connections, first_pause_s=0.001, disk_usage=lambda folder: Usage(self.free))

    def pull(self, name: str = f"{REPO}:Q4_K_M", stop: threading.Event | None = None, connections: int = 4) -> InstalledModel:
        self.reports.clear()
        return self.puller(connections).pull(name, self.reports.append, stop)

    def file(self, path: str = FILE, repository: str = REPO) -> Path:
        return self.home / "models" / repository / path

    def left(self) -> list[str]:
        """Every file that lies in the models folder."""
        return sorted(str(file.relative_to(self.home / "models")) for file in self.home.glob("models/**/*") if file.is_file())
