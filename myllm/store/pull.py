"""`Puller`: a name becomes a model on this disk: looked up, fetched, checked and recorded.

Files lie below the home's `models` folder as `ORG/REPO/FILE.gguf`, plain files like any other there; the record beside
them says where they came from, which lets `update` ask whether the Hub has something newer. A file gets its name only
once its checksum is right, and the first part of a split model gets it last, so nobody ever sees half a model. Nothing
here needs a server: the command line and a server pull into one home side by side, and meet at the files' locks.
"""

from __future__ import annotations

import difflib
import errno
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from myllm.errors import Conflict, DownloadFailed, InsufficientStorage, ModelLoadFailed, ModelNotFound, MyLLMError
from myllm.store.gguf_header import read_header
from myllm.store.hub import SHA256, Hub, RemoteFile, Repository
from myllm.store.metadata import read_metadata
from myllm.store.names import MAX_NAME_LENGTH
from myllm.store.pull_download import TICK_S, Corrupt, Download, Stopped
from myllm.store.pull_part import PartFile, completed_bytes
from myllm.store.pull_progress import Meter, Progress, Report
from myllm.store.pull_reference import Offer, Reference, check_whole, choose, installed_name, parse_reference
from myllm.store.registry import HubOrigin, Record
from myllm.store.store import InstalledModel, Store

CONNECTIONS = 4
HASH_BLOCK_BYTES = 1 << 20


class DiskUsage(Protocol):
    @property
    def free(self) -> int: ...


class Puller:
    """Pulls into one store. Threads may share it. disk_usage: asked for the free space of the folder that files go to."""

    def __init__(
        self,
        store: Store,
        hub: Hub | None = None,
        *,
        connections: int = CONNECTIONS,
        first_pause_s: float = 0.25,
        disk_usage: Callable[[Path], DiskUsage] = shutil.disk_usage,
    ) -> None:
        self.store = store
        self.hub = hub or Hub()
        self.connections = connections
        self.first_pause_s = first_pause_s
        self.disk_usage = disk_usage

    def pull(self, name: str, report: Report, stop: threading.Event | None = None) -> InstalledModel:
        """Install the newest revision of what `name` means; nothing is fetched that is here already.

        The first report comes when all is known and the Hub lets us have the files; setting `stop` ends it with Stopped,
        and the next pull goes on from there.
        """
        if self._is_bundled(name):
            return self._already_here(name, report)
        chosen, reference = self._find(name)
        repository = self.hub.look_up(reference.repository)
        offer = choose(repository, reference)
        check_whole(repository, offer)
        return _Pull(self, chosen or installed_name(repository, offer), repository, offer, report, stop or threading.Event()).run()

    def update(self, name: str, report: Report, stop: threading.Event | None = None) -> InstalledModel:
        """`pull` of a model that was pulled before, by its installed name. Raises ModelNotFound, Conflict."""
        model = self.store.resolve(name)
        if self.store.origin(model.name) is None:
            raise Conflict(f"'{model.name}' was not pulled from the Hub, so nothing is known that could be newer; pull it by its Hub name")
        return self.pull(model.name, report, stop)

    def _is_bundled(self, name: str) -> bool:
        entry = self.store.catalog.find(name)
        return entry is not None and entry.repo is None

    def _already_here(self, name: str, report: Report) -> InstalledModel:
        model = self.store.resolve(name)
        size = model.metadata.size_bytes
        report(Progress(name=model.name, status="success", completed=size, total=size))
        return model

    def _find(self, name: str) -> tuple[str | None, Reference]:
        """The name to install under, where it is known before the Hub is asked, and what to ask it for."""
        origin = self.store.origin(name)
        if origin is not None:
            return name, Reference(origin.repository, path=origin.files[0])
        entry = self.store.catalog.find(name)
        if entry is not None and entry.repo is not None:
            return entry.name, Reference(entry.repo, path=entry.file)
        if "/" not in name:
            known = [entry.name for entry in self.store.catalog if entry.repo]
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known[:20]
            message = f"the catalogue has no '{name[:MAX_NAME_LENGTH]}'; it has {', '.join(near)}; or name a repository: ORG/REPO"
            raise ModelNotFound(message, param="name")
        return None, parse_reference(name)


class _Pull:
    """One pull of one model."""

    def __init__(self, puller: Puller, name: str, repository: Repository, offer: Offer, report: Report, stop: threading.Event) -> None:
        self.puller = puller
        self.store = puller.store
        self.name = name
        self.repository = repository
        self.offer = offer
        self.folder = self.store.models_folder.joinpath(*repository.name.split("/"))
        checksum = offer.files[0].checksum
        self._meter = Meter(name, offer.size, report, checksum if checksum.startswith(SHA256) else None)
        self._stop = stop
        self._num_before = 0  # bytes of the files that are done
        self._fetched: list[Path] = []

    def run(self) -> InstalledModel:
        first = self._destination(self.offer.files[0])
        self.store.check_name(self.name, first)
        if not all(self._is_recorded(file) for file in self.offer.files):
            self.puller.hub.check_access(self.repository, self.offer.files[0])
            self._check_disk()
            for file in (*self.offer.files[1:], self.offer.files[0]):
                self._install(file)
            self._check_model(first)
        origin = HubOrigin(
            repository=self.repository.name,
            revision=self.repository.revision,
            files=tuple(file.path for file in self.offer.files),
            checksums=tuple(file.checksum for file in self.offer.files),
        )
        record = Record(name=self.name, path=str(first), source="pulled", owns_file=True, created_at=time.time(), origin=origin)
        model = self.store.record_pull(record)
        self._meter.tell("success", self.offer.size)
        return model

    def _destination(self, file: RemoteFile) -> Path:
        """Below our folder: `Hub.look_up` leaves out paths that could lead elsewhere."""
        return self.folder.joinpath(*file.path.split("/"))

    def _is_recorded(self, file: RemoteFile) -> bool:
        """Do we know, without reading it, that the file is here and right?"""
        destination = self._destination(file)
        is_known = any(file.checksum == checksum for path, checksum in self.store.pulled_files() if path == destination)
        return is_known and destination.is_file() and destination.stat().st_size == file.size

    def _check_disk(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [file for file in self.offer.files if not self._is_recorded(file)]
        needed = sum(file.size - completed_bytes(_part_path(self._destination(file)), file) for file in missing)
        free = self.puller.disk_usage(self.folder).free
        if needed > free:
            raise InsufficientStorage(
                f"'{self.name}' needs {needed:,} bytes more in {self.folder}, and {free:,} are free there; make room and pull again"
            )

    def _install(self, file: RemoteFile) -> None:
        """The file under its name, fetched if it is not there yet."""
        destination = self._destination(file)
        if not self._is_recorded(file):
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fetch(file, destination)
            except OSError as exc:
                if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                    left = file.size - completed_bytes(_part_path(destination), file)
                    message = f"the disk of {destination.parent} is full, and {left:,} bytes of '{file.path}' are missing"
                    raise InsufficientStorage(f"{message}; make room and pull again to go on") from exc
                raise MyLLMError(f"'{destination}' cannot be written: {exc.strerror or exc}") from exc
        self._num_before += file.size

    def _fetch(self, file: RemoteFile, destination: Path) -> None:
        part = PartFile.open(_part_path(destination), file, destination, self._wait)
        if part is None:
            return
        with part:
            if destination.exists() and self._may_stay(file, destination):
                part.discard()
                return
            try:
                self._download(part)
                part.move(destination)
                self._fetched.append(destination)
            except (Corrupt, ModelLoadFailed) as exc:
                part.discard()
                raise DownloadFailed(f"'{file.path}' of {self.repository.name} was refused and removed: {exc}") from exc

    def _download(self, part: PartFile) -> None:
        puller = self.puller
        download = Download(
            puller.hub, self.repository, part, self._stop, connections=puller.connections, first_pause_s=puller.first_pause_s
        )
        download.run(self._tell)
        part.seal()
        read_header(part.path)

    def _wait(self, completed: int) -> None:
        """Somebody else downloads the file."""
        self._tell(completed)
        if self._stop.wait(TICK_S):
            raise Stopped

    def _tell(self, completed: int) -> None:
        total = self._num_before + completed
        self._meter.tell("verifying" if total == self.offer.size else "downloading", total)

    def _may_stay(self, file: RemoteFile, destination: Path) -> bool:
        """Is what lies there right? If not it may be replaced; raises Conflict where it is not ours to replace."""
        if destination.stat().st_size == file.size and self._has_checksum(file, destination):
            return True
        if destination not in [path for path, _ in self.store.pulled_files()]:
            raise Conflict(f"{destination} is there already and is another file; move it away, then pull again")
        return False

    def _has_checksum(self, file: RemoteFile, destination: Path) -> bool:
        hasher = file.hasher()
        with destination.open("rb") as opened:
            while block := opened.read(HASH_BLOCK_BYTES):
                hasher.update(block)
                self._meter.tell("verifying", self._num_before)
                if self._stop.is_set():
                    raise Stopped
        return file.is_right(hasher)

    def _check_model(self, first: Path) -> None:
        """A file that is right, and still no model that can be run, does not stay."""
        try:
            read_metadata(first)
        except ModelLoadFailed as exc:
            for file in self._fetched:
                file.unlink(missing_ok=True)
            raise DownloadFailed(f"{self.offer.label} of {self.repository.name} was refused and removed: {exc}") from exc


def _part_path(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")
