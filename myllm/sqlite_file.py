"""A file of ours in SQLite: opened, or made, and brought to its current schema. What its tables hold is its owner's to know.

`PRAGMA user_version` counts the migrations that a file has been through. A file of a newer MyLLM is refused rather than
guessed at, and so is a database of another program: `PRAGMA application_id` tells it.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from myllm.errors import ConfigInvalid


@dataclass(frozen=True)
class Schema:
    """what: the file's kind, as messages name it. migrations: the statements of each version, never changed once released."""

    what: str
    application_id: int
    migrations: Sequence[Sequence[str]]
    busy_timeout_s: float

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open or create the file, readable by its user alone, and bring it to the current schema.

        The connection is in autocommit mode: who writes says BEGIN. WAL lets another process read while one writes;
        synchronous NORMAL survives a killed process, and may lose the last transactions (never the file) when the power fails.
        Raises ConfigInvalid where the file cannot be used.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # before SQLite would make it: the -wal and -shm files take over its mode
            return self._opened(path)
        except (OSError, sqlite3.Error) as exc:
            raise ConfigInvalid(
                f"cannot open the {self.what} file {path}: {exc}; check that it is a writable {self.what} file, "
                "or choose another MYLLM_HOME"
            ) from exc

    def _opened(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=self.busy_timeout_s, isolation_level=None, check_same_thread=False)
        try:
            self._migrate(db, path)  # first, so that another program's file is refused before it is touched
            self._enter_wal(db)
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection, path: Path) -> None:
        """Climb the ladder in one transaction; a second process waits at its foot and then finds nothing to do."""
        db.execute("BEGIN IMMEDIATE")
        with db:  # commits, or rolls back on any exception
            version = self._version(db, path)
            if version == len(self.migrations):
                return
            for statement in itertools.chain(*self.migrations[version:]):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {self.application_id}")
            db.execute(f"PRAGMA user_version = {len(self.migrations)}")

    def _version(self, db: sqlite3.Connection, path: Path) -> int:
        """The file's schema version, 0 for an empty file."""
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        (num_objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application_id != self.application_id and (num_objects or version):
            raise ConfigInvalid(f"{path} is a database of another program; move it away or choose another MYLLM_HOME")
        if version > len(self.migrations):
            raise ConfigInvalid(
                f"{path} has {self.what} schema {version}, this MyLLM knows schemas up to {len(self.migrations)}; "
                "upgrade MyLLM or choose another MYLLM_HOME"
            )
        return version

    def _enter_wal(self, db: sqlite3.Connection) -> None:
        """Switch a new file to WAL; on one that is there already, nothing happens.

        Two processes that switch at once each hold what the other waits for, so SQLite fails one without asking its busy
        timeout. That one tries again.
        """
        deadline = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)
