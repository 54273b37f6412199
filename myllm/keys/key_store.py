"""`KeyStore`: the keys of one SQLite file, and what each has used of its limits.

A key's secret is not in the file, only its hash. Each count is one transaction that begins with the write lock, so that
threads and processes that share the file never count one request as two or two as one; what it decides is `limits`'
business. The store is synchronous and thread-safe; a server asks it through a `Keyring`.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from myllm.caller import Reservation, Scope
from myllm.errors import Conflict, MyLLMError, NotFound, Unauthorized, Unavailable
from myllm.keys.key import PREFIX_LENGTH, Key, checked_limit, checked_name, digest, find, new_secret
from myllm.keys.limits import Account, Standing, Window
from myllm.keys.schema import connect

_SELECT_KEYS = "SELECT id, name, scope, digest, prefix, rpm, tpm, rpd, created_at, last_used_at FROM keys"
_SELECT_ACCOUNT = """
SELECT name, rpm, tpm, rpd, minute_began_at, minute_requests, day_began_at, day_requests, tokens_began_at, minute_tokens
FROM keys WHERE id = ?
"""
_UPDATE_REQUESTS = """
UPDATE keys SET last_used_at = ?, minute_began_at = ?, minute_requests = ?, day_began_at = ?, day_requests = ? WHERE id = ?
"""


class KeyStore:
    """The keys of one file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file. Raises ConfigInvalid where it is newer than this program, or no key file."""
        self.path = path
        self._clock = clock
        self._db = connect(path)
        self._identity = _identity(path)
        self._lock = threading.Lock()
        self._num_changes = 0
        self._is_closed = False

    def close(self) -> None:
        """Wait for the call that runs, then let the file go; closing twice is harmless."""
        with self._lock:
            self._is_closed = True
            self._db.close()

    def create(self, name: str, *, scope: Scope = "inference", rpm: int = 0, tpm: int = 0, rpd: int = 0) -> str:
        """A new key; what is returned is its secret, which nobody can ask for again. Raises Conflict for a name in use."""
        checked_name(name)
        limits = [checked_limit(value, what) for value, what in ((rpm, "rpm"), (tpm, "tpm"), (rpd, "rpd"))]
        secret = new_secret()
        values = (name, scope, digest(secret.encode()), secret[:PREFIX_LENGTH], *limits, self._clock())
        with self._transaction("IMMEDIATE"):
            if self._db.execute("SELECT 1 FROM keys WHERE name = ?", (name,)).fetchone():
                raise Conflict(f"there is a key '{name}' already; revoke it first, or choose another name", param="name")
            self._db.execute(
                "INSERT INTO keys (name, scope, digest, prefix, rpm, tpm, rpd, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
            )
            self._num_changes += 1
        return secret

    def list(self) -> Sequence[Key]:
        """The oldest first."""
        with self._transaction("DEFERRED"):
            return [Key(*row) for row in self._db.execute(f"{_SELECT_KEYS} ORDER BY id")]

    def find(self, secret: bytes) -> Key | None:
        return find(secret, self.list())

    def revoke(self, name: str) -> None:
        """Forget the key and its counts. Its sessions stay, and belong to the next key of this name."""
        with self._transaction("IMMEDIATE"):
            if not self._db.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount:
                names = ", ".join(row[0] for row in self._db.execute("SELECT name FROM keys ORDER BY id")) or "none"
                raise NotFound(f"there is no key {name[:64]!r}; there are: {names}", param="name")
            self._num_changes += 1

    def version(self) -> tuple[int, int]:
        """Another value than before where keys may have changed, through this store or another process.

        Raises Unavailable where the file that is open here is no longer the one at the path: what it is told, nobody else learns.
        """
        if _identity(self.path) != self._identity:
            raise Unavailable(f"{self.path} was removed or replaced while it was in use; restart the server to use what is there now")
        with self._transaction(None):
            (by_others,) = self._db.execute("PRAGMA data_version").fetchone()
        return by_others, self._num_changes

    def standing(self, key_id: int) -> Standing | None:
        """How the key stands, with nothing counted; None where its requests a minute have no limit."""
        with self._transaction("DEFERRED"):
            return self._account(key_id).standing(self._clock())

    def take_request(self, key_id: int) -> Standing | None:
        """Count a request, and how the key stands then. Raises RateLimited or QuotaExceeded, and nothing is counted."""
        with self._transaction("IMMEDIATE"):
            now = self._clock()  # only now: who waited for the lock must not be earlier than who had it
            account = self._account(key_id).with_request(now)
            self._db.execute(_UPDATE_REQUESTS, (now, *account.minute, *account.day, key_id))
        return account.standing(now)

    def reserve_tokens(self, key_id: int, at_least: int, at_most: int | None = None) -> Reservation:
        """Take as many tokens as the minute has, up to `at_most` (None: `at_least`). Raises RateLimited."""
        with self._transaction("IMMEDIATE"):
            account, reservation = self._account(key_id).with_tokens(at_least, self._clock(), at_most)
            self._store_tokens(key_id, account.tokens)
        return reservation

    def settle_tokens(self, key_id: int, reservations: Sequence[Reservation], num_used: int) -> None:
        """Correct what was reserved to what was used."""
        with self._transaction("IMMEDIATE"):
            if self._db.execute("SELECT 1 FROM keys WHERE id = ?", (key_id,)).fetchone():  # else revoked meanwhile
                account = self._account(key_id).with_settled(reservations, num_used, self._clock())
                self._store_tokens(key_id, account.tokens)

    def _account(self, key_id: int) -> Account:
        row = self._db.execute(_SELECT_ACCOUNT, (key_id,)).fetchone()
        if row is None:
            raise Unauthorized("this API key has been revoked")
        name, rpm, tpm, rpd = row[:4]
        return Account(name, rpm, tpm, rpd, Window(*row[4:6]), Window(*row[6:8]), Window(*row[8:10]))

    def _store_tokens(self, key_id: int, tokens: Window) -> None:
        self._db.execute("UPDATE keys SET tokens_began_at = ?, minute_tokens = ? WHERE id = ?", (*tokens, key_id))

    @contextmanager
    def _transaction(self, kind: str | None) -> Iterator[None]:
        """All or nothing; the one border where SQLite's errors become ours. None: a pragma, which needs no transaction."""
        with self._lock:
            if self._is_closed:
                raise Unavailable("the key store is closed: the server is shutting down")
            try:
                with self._db:  # commits, or rolls back on any exception
                    if kind:
                        self._db.execute(f"BEGIN {kind}")
                    yield
            except sqlite3.OperationalError as exc:
                raise Unavailable(f"the key file cannot be used now: {exc}; try again", retry_after_s=1) from exc
            except sqlite3.DatabaseError as exc:
                raise MyLLMError(f"the key file {self.path.name} is damaged: {exc}; restore it or move it away") from exc


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
