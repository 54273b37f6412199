"""The key file's table, in all its versions. Nothing here knows what a key may do; `sqlite_file` opens the file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from myllm.sqlite_file import Schema

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
    """The file, opened or made. Raises ConfigInvalid."""
    return Schema("key", APPLICATION_ID, MIGRATIONS, BUSY_TIMEOUT_S).connect(path)
