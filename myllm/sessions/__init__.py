"""Conversations that outlive the process: `SessionStore` and the values that it hands out."""

from __future__ import annotations

from myllm.sessions.session import History, Reply, Session, SessionInfo, StoredMessage, iso_time
from myllm.sessions.session_store import SessionStore

__all__ = ["History", "Reply", "Session", "SessionInfo", "SessionStore", "StoredMessage", "iso_time"]
