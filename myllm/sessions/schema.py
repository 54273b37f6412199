"""The session file's tables, and how an older file becomes a current one. Nothing here reads or writes a conversation.

`PRAGMA user_version` counts the migrations that a file has been through. A file of a newer MyLLM is refused rather than
guessed at, and so is a database of another program: `PRAGMA application_id` tells it.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path

from myllm.errors import ConfigInvalid

APPLICATION_ID = 0x4D794C53  # "MyLS"
BUSY_TIMEOUT_S = 10.0

# One entry a version, never changed once released. `nodes.body` comes last: SQLite then reads the columns before it
# from a row's first page, so walking up a chain of 5 MB messages does not read the 5 MB.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE nodes (
            id         INTEGER PRIMARY KEY,
            parent     INTEGER REFERENCES nodes (id),
            depth      INTEGER NOT NULL,
            hash       BLOB NOT NULL UNIQUE,
            created_at REAL NOT NULL,
            reply      TEXT,
            body       TEXT NOT NULL
        )""",
        "CREATE INDEX nodes_parent ON nodes (parent)",
        # AUTOINCREMENT: a key is never used twice, so it tells a session from a later one under the same id.
        """CREATE TABLE sessions (
            key        INTEGER PRIMARY KEY AUTOINCREMENT,
            id         TEXT NOT NULL UNIQUE,
            title      TEXT,
            model      TEXT NOT NULL,
            owner      TEXT,
            head       INTEGER NOT NULL REFERENCES nodes (id),
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL
        )""",
        "CREATE INDEX sessions_head ON sessions (head)",
        "CREATE INDEX sessions_updated ON sessions (updated_at, key)",
        "CREATE INDEX sessions_owner ON sessions (owner, updated_at, key)",
    ),
    (
        # A response's history is the first `depth` messages of its session, its own answer the last of them.
        """CREATE TABLE responses (
            id      TEXT PRIMARY KEY,
            session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
            depth   INTEGER NOT NULL,
            body    TEXT NOT NULL
        )""",
        "CREATE INDEX responses_session ON responses (session, depth)",
    ),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the file, readable by its user alone, and bring it to the current schema.

    The connection is in autocommit mode: who writes says BEGIN. WAL lets another process read while one writes;
    synchronous NORMAL survives a killed process, and may lose the last turns (never the file) when the power fails.
    Raises ConfigInvalid where the file cannot be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # before SQLite would make it: the -wal and -shm files take over its mode
        return _opened(path)
    except (OSError, sqlite3.Error) as exc:
        raise ConfigInvalid(
            f"cannot open the session file {path}: {exc}; check that it is a writable session file, or choose another MYLLM_HOME"
        ) from exc


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _migrate(db, path)  # first, so that another program's file is refused before it is touched
        _enter_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Climb the ladder in one transaction; a second process waits at its foot and then finds nothing to do."""
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
            f"{path} has session schema {version}, this MyLLM knows schemas up to {len(MIGRATIONS)}; "
            "upgrade MyLLM or choose another MYLLM_HOME"
        )
    return version


def _enter_wal(db: sqlite3.Connection) -> None:
    """Switch a new file to WAL; on one that is there already, nothing happens.

    Two processes that switch at once each hold what the other waits for, so SQLite fails one without asking its busy
    timeout. That one tries again.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)
