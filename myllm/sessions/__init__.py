"""Conversations that outlive the process: `SessionStore` and the values that it hands out."""

from __future__ import annotations

from myllm.sessions.session import History, NewResponse, Reply, Session, SessionInfo, StoredMessage, StoredResponse, iso_time
from myllm.sessions.session_store import SessionStore

__all__ = [
    "History",
    "NewResponse",
    "Reply",
    "Session",
    "SessionInfo",
    "SessionStore",
    "StoredMessage",
    "StoredResponse",
    "iso_time",
]
