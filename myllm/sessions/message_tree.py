"""Every message once: a tree of nodes, each the child of the message before it. Sessions are pointers into it.

A node's hash covers its parent's hash and its own body, so equal beginnings are equal nodes: a history that is sent
again or forked stores only what is new. The root hash is made of the owner: two owners never share a node, and nobody
can learn from a node's age, reasoning or usage what another key's user wrote. Here is SQL without transactions:
`SessionStore` opens them, and knows which sessions there are.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from myllm.errors import InvalidRequest
from myllm.sessions.session import Reply, StoredMessage, iso_time
from myllm.types import Message

# Rows come newest first, as the walk goes. Only the two ids travel through the recursion; the bodies join at the end.
_PATH = """
WITH RECURSIVE path (id, parent) AS (
    SELECT id, parent FROM nodes WHERE id = ?
    UNION ALL
    SELECT nodes.id, nodes.parent FROM path JOIN nodes ON nodes.id = path.parent
)
"""
_BODIES = _PATH + "SELECT nodes.depth, nodes.body, nodes.created_at, nodes.reply FROM path CROSS JOIN nodes USING (id)"
_ANCESTOR = _PATH + "SELECT nodes.id, nodes.hash, nodes.depth FROM path CROSS JOIN nodes USING (id) WHERE nodes.depth = ?"

# From a head upward as long as nobody else stands on the node: no session, and no child but the one that is dying.
_PRUNE = """
DELETE FROM nodes WHERE id IN (
    WITH RECURSIVE dying (id, parent) AS (
        SELECT id, parent FROM nodes WHERE id = ?
            AND NOT EXISTS (SELECT 1 FROM sessions WHERE head = nodes.id)
            AND NOT EXISTS (SELECT 1 FROM nodes AS child WHERE child.parent = nodes.id)
        UNION ALL
        SELECT nodes.id, nodes.parent FROM dying JOIN nodes ON nodes.id = dying.parent
            WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE head = nodes.id)
            AND NOT EXISTS (SELECT 1 FROM nodes AS child WHERE child.parent = nodes.id AND child.id <> dying.id)
    )
    SELECT id FROM dying
)
"""

# Fields at their default are left out, so a field that Message gains later leaves the hashes of older messages alone.
_encoder = msgspec.json.Encoder()
_message_decoder = msgspec.json.Decoder(Message)
_reply_decoder = msgspec.json.Decoder(Reply)


class Node(NamedTuple):
    """A place in the tree; `depth` counts messages from the root, so it is the length of the history that ends here."""

    id: int | None
    hash: bytes
    depth: int


def root(owner: str | None) -> Node:
    """Where an owner's conversations start: before the first message, and not stored."""
    return Node(None, hashlib.sha256(_encoder.encode(owner)).digest(), 0)


class MessageTree:
    """The nodes of one database; each method is a statement or few, inside its caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def grow(self, node: Node, messages: Sequence[Message], now: float) -> Node:
        """Hang the messages under `node`, one below the other; the last one's node. What is there already is shared."""
        for message in messages:
            node = self._child(node, encode(message), now)
        return node

    def messages(self, head: Node) -> tuple[Message, ...]:
        """The history that ends at `head`, oldest first, in one query."""
        return tuple(_message_decoder.decode(body) for _, body, _, _ in self._path(head))

    def stored_messages(self, head: Node) -> tuple[StoredMessage, ...]:
        """The same, with what is known of each message."""
        return tuple(
            StoredMessage(_message_decoder.decode(body), iso_time(created_at), _reply_decoder.decode(reply) if reply else None)
            for _, body, created_at, reply in self._path(head)
        )

    def ancestor(self, head: Node, depth: int) -> Node:
        """The node where the first `depth` messages of the history end; depth is 1..head.depth."""
        return Node(*self._db.execute(_ANCESTOR, (head.id, depth)).fetchone())

    def annotate(self, node: Node, reply: Reply) -> None:
        """Keep what is known of a reply. What an equal reply of another session left there stays as it is."""
        self._db.execute("UPDATE nodes SET reply = coalesce(reply, ?) WHERE id = ?", (_encoder.encode(reply).decode(), node.id))

    def prune(self, head: Node) -> None:
        """Forget the messages that were reachable from `head` alone; costs as much as there is to forget."""
        self._db.execute(_PRUNE, (head.id,))

    def _path(self, head: Node) -> list[tuple[int, str, float, str | None]]:
        rows: list[tuple[int, str, float, str | None]] = self._db.execute(_BODIES, (head.id,)).fetchall()
        rows.sort()  # by depth, which is unique: a reversal, without SQLite copying each body into its sorter
        return rows

    def _child(self, parent: Node, body: str, now: float) -> Node:
        digest = hashlib.sha256(parent.hash + body.encode()).digest()
        row = self._db.execute("SELECT id FROM nodes WHERE hash = ?", (digest,)).fetchone()
        if row:
            return Node(row[0], digest, parent.depth + 1)
        values = (parent.id, parent.depth + 1, digest, now, body)
        cursor = self._db.execute("INSERT INTO nodes (parent, depth, hash, created_at, body) VALUES (?, ?, ?, ?, ?)", values)
        return Node(cursor.lastrowid, digest, parent.depth + 1)


def encode(message: Message) -> str:
    """The message as it is hashed and stored. JSON keeps every character, NUL too; half a surrogate pair is none."""
    try:
        return _encoder.encode(message).decode()
    except UnicodeEncodeError as exc:
        raise InvalidRequest(
            f"a message of role '{message.role}' holds half of a surrogate pair, which is no character; send valid Unicode",
            param="messages",
        ) from exc
