"""The key file's table, and how an older file becomes a current one. Nothing here knows what a key may do.

As in the session file, `PRAGMA user_version` counts the migrations that a file has been through, and `PRAGMA
application_id` tells it from another program's database; a file of a newer MyLLM is refused.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path

from myllm.errors import ConfigInvalid

APPLICATION_ID = 0x4D794C4B  # "MyLK"
BUSY_TIMEOUT_S = 5.0

# One entry a version, never changed once released.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: an id is never used twice, so what a revoked key still settles hits no other key.
        """CREATE TABLE keys (
            id              INTEGER PRIMARY KEY AUTOINCREMENT,
            name            TEXT NOT NULL UNIQUE,
            scope           TEXT NOT NULL,
            digest          BLOB NOT NULL UNIQUE,
            prefix          TEXT NOT NULL,
            rpm             INTEGER NOT NULL,
            tpm             INTEGER NOT NULL,
            rpd             INTEGER NOT NULL,
            created_at      REAL NOT NULL,
            last_used_at    REAL,
            minute_began_at REAL NOT NULL DEFAULT 0,
            minute_requests INTEGER NOT NULL DEFAULT 0,
            day_began_at    REAL NOT NULL DEFAULT 0,
            day_requests    INTEGER NOT NULL DEFAULT 0,
            tokens_began_at REAL NOT NULL DEFAULT 0,
            minute_tokens   INTEGER NOT NULL DEFAULT 0
        )""",
    ),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the file, readable by its user alone, in autocommit mode and WAL. Raises ConfigInvalid."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # before SQLite would make it: the -wal and -shm files take over its mode
        return _opened(path)
    except (OSError, sqlite3.Error) as exc:
        raise ConfigInvalid(
            f"cannot open the key file {path}: {exc}; check that it is a writable key file, or choose another MYLLM_HOME"
        ) from exc


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _migrate(db, path)  # first, so that another program's file is refused before it is touched
        _enter_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")  # a killed process loses no count; a power cut may lose the last ones
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    db.execute("BEGIN IMMEDIATE")
    with db:  # commits, or rolls back on any exception
        version = _version(db, path)
        if version == len(MIGRATIONS):
            return
        for statement in itertools.chain(*MIGRATIONS[version:]):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The file's schema version, 0 for an empty file."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (num_objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (num_objects or version):
        raise ConfigInvalid(f"{path} is a database of another program; move it away or choose another MYLLM_HOME")
    if version > len(MIGRATIONS):
        raise ConfigInvalid(
            f"{path} has key schema {version}, this MyLLM knows schemas up to {len(MIGRATIONS)}; upgrade MyLLM or choose another MYLLM_HOME"
        )
    return version


def _enter_wal(db: sqlite3.Connection) -> None:
    """Two processes that switch a new file at once fail without the busy timeout being asked; one tries again."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)
