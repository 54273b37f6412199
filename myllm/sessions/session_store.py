"""`SessionStore`: conversations in one SQLite file, by id and owner. How messages are kept is the tree's business
(`message_tree`), how the file came to its tables the schema's. The store knows no HTTP, no models and no keys: `owner`
is a name that its caller vouches for.

It is synchronous and thread-safe; asyncio calls it through `asyncio.to_thread`. All threads share one connection behind
one lock. A connection a thread would only move the wait: SQLite has one writer at a time anyway, each turn of a chat
writes, and a read takes a few milliseconds at most. In return there is one page cache, and nothing to close when a pool
drops its threads. Other processes (the command line) open the file themselves; SQLite's own locks order them.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from myllm.errors import InvalidRequest, MyLLMError, NotFound, SessionNotFound, Unavailable
from myllm.sessions.message_tree import MessageTree, Node, encode, root
from myllm.sessions.schema import connect
from myllm.sessions.session import History, NewResponse, Reply, Session, SessionInfo, StoredResponse, iso_time
from myllm.sessions.title import automatic_title, checked_title
from myllm.types import FinishReason, Message, Usage

MAX_LIST = 1000

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_INT = 2**63 - 1  # SQLite's
_COLUMNS = "key, sessions.id, title, model, owner, sessions.created_at, updated_at, nodes.id, nodes.hash, nodes.depth"
_SELECT = f"SELECT {_COLUMNS} FROM sessions JOIN nodes ON nodes.id = head"
_SELECT_RESPONSE = f"""
SELECT {_COLUMNS}, responses.depth, responses.body
FROM responses JOIN sessions ON key = responses.session JOIN nodes ON nodes.id = head WHERE responses.id = ?
"""


class _Record(NamedTuple):
    """A row of `sessions` with the node that it points at."""

    key: int
    id: str
    title: str | None
    model: str
    owner: str | None
    created_at: float
    updated_at: float
    head: Node

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> _Record:
        return cls._make((*row[:7], Node(*row[7:])))

    def is_visible_to(self, owner: str | None) -> bool:
        return owner is None or owner == self.owner

    @property
    def info(self) -> SessionInfo:
        return SessionInfo(self.id, self.title, self.model, self.head.depth, iso_time(self.created_at), iso_time(self.updated_at))


class SessionStore:
    """The conversations of one file.

    Each method takes the `owner` who asks: a session of somebody else is SessionNotFound, and None sees all (no keys
    are configured, or an admin asks). It has no default, so that forgetting it cannot mean "all".
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises ConfigInvalid where it is newer than this program, or no session file."""
        self.path = path
        self._db = connect(path)
        self._tree = MessageTree(self._db)
        self._lock = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Wait for the call that runs, then let the file go; closing twice is harmless."""
        with self._lock:
            self._is_closed = True
            self._db.close()

    @staticmethod
    def new_id() -> str:
        return str(uuid.uuid4())

    @staticmethod
    def check_id(session_id: str) -> None:
        if not (isinstance(session_id, str) and _ID.fullmatch(session_id)):
            raise InvalidRequest(
                "session_id takes 1 to 128 letters (A-Z, a-z), digits, '.', '_' and '-', the first a letter or a digit", param="session_id"
            )

    def append_turn(self, session_id: str, messages: Sequence[Message], *, model: str, owner: str | None) -> History:
        """Append what is new in a request's messages, making the session if its id is new; the whole history then.

        Where the messages begin with the whole stored history, only the rest is appended; if they equal it, nothing.
        Messages are compared by what was said (role, content, name, tool calls), so a client may send a reply back
        without its reasoning, and the stored one stays. Anything else is new and is appended as a whole, also a history
        sent again without its system message, or without the partial reply that a cancelled turn left: a guess about
        what the client meant would lose messages where it is wrong. A client that keeps the history should fork
        instead, or send only the new message.

        The session takes `model` as its last one. A new session belongs to `owner`; an existing one stays its owner's.
        """
        self.check_id(session_id)
        if not messages:
            raise InvalidRequest("messages is empty; send at least one message", param="messages")
        with self._transaction("IMMEDIATE"):
            record = self._lookup(session_id)
            if record is None:
                return self._create(session_id, tuple(messages), model, owner)
            if not record.is_visible_to(owner):
                raise _not_found(session_id)
            return self._extend(record, messages, model)

    def preview(self, session_id: str, messages: Sequence[Message], owner: str | None) -> tuple[Message, ...]:
        """The whole history as `append_turn` would make it, with nothing stored: for a prompt that may yet be refused."""
        self.check_id(session_id)
        if not messages:
            raise InvalidRequest("messages is empty; send at least one message", param="messages")
        for message in messages:
            encode(message)
        with self._transaction("DEFERRED"):
            record = self._lookup(session_id)
            if record is None:
                return tuple(messages)
            if not record.is_visible_to(owner):
                raise _not_found(session_id)
            stored = self._tree.messages(record.head)
            return stored + _unstored(messages, stored)

    def add_reply(
        self,
        session_id: str,
        message: Message,
        *,
        finish_reason: FinishReason,
        usage: Usage | None = None,
        model: str | None = None,
        born: int | None = None,
    ) -> bool:
        """Append what the model said, when it ended; False if the session was deleted meanwhile.

        born: `History.born` of the turn that is answered. With it, a session that was deleted and made anew under the
        same id, perhaps by somebody else, does not get the reply. model: the session's last one if not given.
        """
        with self._transaction("IMMEDIATE"):
            record = self._lookup(session_id)
            if record is None or born not in (None, record.key):
                return False
            now = time.time()
            head = self._tree.grow(record.head, [message], now)
            self._tree.annotate(head, Reply(finish_reason, model or record.model, usage))
            self._db.execute("UPDATE sessions SET head = ?, updated_at = ? WHERE key = ?", (head.id, now, record.key))
            return True

    def get(self, session_id: str, owner: str | None) -> Session:
        with self._transaction("DEFERRED"):  # both queries see one state, whatever another process writes
            record = self._find(session_id, owner)
            return Session(record.info, self._tree.stored_messages(record.head))

    def export(self, session_id: str, owner: str | None) -> dict[str, Any]:
        """The session as one JSON-able object, messages included."""
        return self.get(session_id, owner).to_dict()

    def list(self, limit: int, offset: int, owner: str | None) -> Sequence[SessionInfo]:
        """The owner's sessions, the most recently used first. limit: 1..1000."""
        if not 1 <= limit <= MAX_LIST:
            raise InvalidRequest(f"limit is {limit}, it takes 1 to {MAX_LIST}; page with offset", param="limit")
        if not 0 <= offset <= _MAX_INT:
            raise InvalidRequest(f"offset is {offset}, it takes 0 or more", param="offset")
        clause, values = _owned_by(owner)
        query = f"{_SELECT} {clause} ORDER BY updated_at DESC, key DESC LIMIT ? OFFSET ?"
        with self._transaction("DEFERRED"):
            rows = self._db.execute(query, (*values, limit, offset)).fetchall()
        return [_Record.of(row).info for row in rows]

    def count(self, owner: str | None) -> int:
        clause, values = _owned_by(owner)
        with self._transaction("DEFERRED"):
            num_sessions: int = self._db.execute(f"SELECT count(*) FROM sessions {clause}", values).fetchone()[0]
        return num_sessions

    def set_title(self, session_id: str, title: str, owner: str | None) -> SessionInfo:
        """Name a session by hand; runs of white space become one space."""
        title = checked_title(title)
        with self._transaction("IMMEDIATE"):
            record = self._find(session_id, owner)
            self._db.execute("UPDATE sessions SET title = ? WHERE key = ?", (title, record.key))
        return record._replace(title=title).info

    def delete(self, session_id: str, owner: str | None) -> None:
        """Forget a session, and each message that no other session reaches."""
        with self._transaction("IMMEDIATE"):
            record = self._find(session_id, owner)
            self._db.execute("DELETE FROM sessions WHERE key = ?", (record.key,))
            self._tree.prune(record.head)

    def fork(self, session_id: str, at: int | None, owner: str | None) -> SessionInfo:
        """A new session that shares the first `at` messages, all if None; no message is copied.

        It keeps the title and stays with the owner of the old one, also if an admin forked it.
        """
        with self._transaction("IMMEDIATE"):
            record = self._find(session_id, owner)
            at = record.head.depth if at is None else at
            if not (isinstance(at, int) and 1 <= at <= record.head.depth):
                raise InvalidRequest(f"at is {at}, session '{session_id}' takes 1 to {record.head.depth}, the messages it has", param="at")
            head = self._tree.ancestor(record.head, at)
            return self._insert(self.new_id(), record.title, record.model, record.owner, head, time.time()).info

    def add_response(self, response: NewResponse, owner: str | None, *, may_go_on: bool = True) -> str | None:
        """Store a turn with its answer, all at once; the id of the session that holds it now.

        It goes on in the session of the previous response where nothing was said there since, else in a fork of it, as it
        does where it may not go on (somebody is at work there). Without a previous one it begins a session. None if the
        previous one was deleted meanwhile: then nothing is stored.
        """
        said, model, now = (*response.messages, response.answer), response.reply.model, time.time()
        with self._transaction("IMMEDIATE"):
            if response.previous is None:
                head = self._tree.grow(root(owner), said, now)
                record = self._insert(self.new_id(), automatic_title(said), model, owner, head, now)
            else:
                try:
                    record, depth, _ = self._find_response(response.previous, owner)
                except NotFound:
                    return None
                head = self._tree.grow(self._tree.ancestor(record.head, depth), said, now)
                if may_go_on and depth == record.head.depth:
                    values = (head.id, model, now, record.key)
                    self._db.execute("UPDATE sessions SET head = ?, model = ?, updated_at = ? WHERE key = ?", values)
                else:
                    record = self._insert(self.new_id(), record.title, model, record.owner, head, now)
            self._tree.annotate(head, response.reply)
            stored = (response.id, record.key, head.depth, response.body)
            self._db.execute("INSERT INTO responses (id, session, depth, body) VALUES (?, ?, ?, ?)", stored)
            return record.id

    def get_response(self, response_id: str, owner: str | None) -> StoredResponse:
        """Raises NotFound also for one in somebody else's session."""
        with self._transaction("DEFERRED"):
            record, depth, body = self._find_response(response_id, owner)
            return StoredResponse(response_id, record.id, self._tree.messages(self._tree.ancestor(record.head, depth)), body)

    def delete_response(self, response_id: str, owner: str | None) -> None:
        """Forget a response. Its turn leaves the session where nothing goes on from it, and the session with the last one."""
        with self._transaction("IMMEDIATE"):
            record, depth, _ = self._find_response(response_id, owner)
            self._db.execute("DELETE FROM responses WHERE id = ?", (response_id,))
            if depth < record.head.depth:
                return
            (rest,) = self._db.execute("SELECT max(depth) FROM responses WHERE session = ?", (record.key,)).fetchone()
            if rest is None:
                self._db.execute("DELETE FROM sessions WHERE key = ?", (record.key,))
            else:
                head = self._tree.ancestor(record.head, rest)
                self._db.execute("UPDATE sessions SET head = ? WHERE key = ?", (head.id, record.key))
            self._tree.prune(record.head)

    def _find_response(self, response_id: str, owner: str | None) -> tuple[_Record, int, str]:
        """The session that holds it, how many messages that had when it ended, and its body."""
        row = self._db.execute(_SELECT_RESPONSE, (response_id,)).fetchone() if _ID.fullmatch(response_id) else None
        if row is None or not _Record.of(row[:-2]).is_visible_to(owner):
            raise NotFound(f"response {response_id[:128]!r} not found; it may be deleted, or was not to be stored")
        return _Record.of(row[:-2]), row[-2], row[-1]

    def _create(self, session_id: str, messages: tuple[Message, ...], model: str, owner: str | None) -> History:
        now = time.time()
        head = self._tree.grow(root(owner), messages, now)
        record = self._insert(session_id, automatic_title(messages), model, owner, head, now)
        return History(session_id, record.key, messages)

    def _extend(self, record: _Record, messages: Sequence[Message], model: str) -> History:
        stored = self._tree.messages(record.head)
        new = _unstored(messages, stored)
        now = time.time()
        head = self._tree.grow(record.head, new, now)
        title = record.title or automatic_title(new)
        values = (head.id, title, model, now, record.key)
        self._db.execute("UPDATE sessions SET head = ?, title = ?, model = ?, updated_at = ? WHERE key = ?", values)
        return History(record.id, record.key, stored + new)

    def _insert(self, session_id: str, title: str | None, model: str, owner: str | None, head: Node, now: float) -> _Record:
        cursor = self._db.execute(
            "INSERT INTO sessions (id, title, model, owner, head, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (session_id, title, model, owner, head.id, now, now),
        )
        assert cursor.lastrowid is not None
        return _Record(cursor.lastrowid, session_id, title, model, owner, now, now, head)

    def _find(self, session_id: str, owner: str | None) -> _Record:
        record = self._lookup(session_id)
        if record is None or not record.is_visible_to(owner):
            raise _not_found(session_id)
        return record

    def _lookup(self, session_id: str) -> _Record | None:
        if not _ID.fullmatch(session_id):  # from a URL's path it may be anything, and SQLite cannot take all of that
            return None
        row = self._db.execute(f"{_SELECT} WHERE sessions.id = ?", (session_id,)).fetchone()
        return _Record.of(row) if row else None

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        """All or nothing. A writer says IMMEDIATE: it waits at the door, and never loses its place after reading.

        The one border where SQLite's errors become ours.
        """
        with self._lock:
            if self._is_closed:
                raise Unavailable("the session store is closed: the server is shutting down")
            try:
                with self._db:  # commits, or rolls back on any exception
                    self._db.execute(f"BEGIN {kind}")
                    yield
            except sqlite3.OperationalError as exc:
                raise Unavailable(f"the session file cannot be used now: {exc}; try again", retry_after_s=1) from exc
            except sqlite3.DatabaseError as exc:
                raise MyLLMError(f"the session file {self.path.name} is damaged: {exc}; restore it or move it away") from exc


def _unstored(messages: Sequence[Message], stored: Sequence[Message]) -> tuple[Message, ...]:
    """What a request adds to a history: the rest where it repeats the whole of it, otherwise everything."""
    return tuple(messages[len(stored) :] if _begins_with(messages, stored) else messages)


def _begins_with(messages: Sequence[Message], stored: Sequence[Message]) -> bool:
    return len(messages) >= len(stored) and all(_said(new) == _said(old) for new, old in zip(messages, stored, strict=False))


def _said(message: Message) -> tuple[object, ...]:
    return message.role, message.content, message.name, message.tool_calls, message.tool_call_id


def _owned_by(owner: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if owner is None else ("WHERE owner = ?", (owner,))


def _not_found(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"session {session_id[:128]!r} not found; list the sessions to see which there are", param="session_id")
