"""The session file's tables, in all their versions. Nothing here reads or writes a conversation; `sqlite_file` opens the file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from myllm.sqlite_file import Schema

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
    """The file, opened or made. Raises ConfigInvalid."""
    return Schema("session", APPLICATION_ID, MIGRATIONS, BUSY_TIMEOUT_S).connect(path)
