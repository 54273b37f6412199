"""Random turns, replies, forks, deletions and restarts, against a dictionary that does the same in the plainest way."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from myllm.errors import InvalidRequest, SessionNotFound
from myllm.sessions import SessionStore
from myllm.types import FinishReason, Message, ToolCall

# Few words, so that histories often meet. Sessions are drawn in the order they were made: the ids of forks are random,
# and sorted by them a replay would draw another session.
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant"]),
    content=st.sampled_from(["", "a", "b"]),
    reasoning=st.sampled_from([None, None, "r"]),
    tool_calls=st.sampled_from([(), (), (ToolCall("1", "f", "{}"),)]),
)
TURNS = st.lists(MESSAGES, min_size=1, max_size=3)
IDS = st.sampled_from(["one", "two", "three"])
OWNERS = st.sampled_from([None, "ann", "bob"])


def without_reasoning(messages: list[Message]) -> list[Message]:
    return [Message(m.role, m.content, tool_calls=m.tool_calls) for m in messages]


class SessionsAgainstADictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "sessions.db"
        self.store = SessionStore(self.path)
        self.histories: dict[str, list[Message]] = {}
        self.owners: dict[str, str | None] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def is_visible(self, session_id: str, owner: str | None) -> bool:
        return session_id in self.histories and owner in (None, self.owners[session_id])

    @rule(session_id=IDS, turn=TURNS, owner=OWNERS)
    def append(self, session_id: str, turn: list[Message], owner: str | None) -> None:
        if session_id in self.histories and not self.is_visible(session_id, owner):
            with pytest.raises(SessionNotFound):
                self.store.append_turn(session_id, turn, model="m", owner=owner)
            return
        stored = self.histories.setdefault(session_id, [])
        self.owners.setdefault(session_id, owner)
        begins_with_all = without_reasoning(turn)[: len(stored)] == without_reasoning(stored)
        stored.extend(turn[len(stored) :] if begins_with_all else turn)

        history = self.store.append_turn(session_id, turn, model="m", owner=owner)

        assert list(history.messages) == stored

    @precondition(lambda self: self.histories)
    @rule(data=st.data(), turn=st.lists(MESSAGES, max_size=2))
    def send_the_history_again(self, data: Any, turn: list[Message]) -> None:
        session_id = data.draw(st.sampled_from(list(self.histories)))
        stored = self.histories[session_id]
        sent = without_reasoning(stored) + turn
        stored.extend(turn)

        history = self.store.append_turn(session_id, sent, model="m", owner=self.owners[session_id])

        assert list(history.messages) == stored

    @rule(session_id=IDS, message=MESSAGES)
    def reply(self, session_id: str, message: Message) -> None:
        is_stored = self.store.add_reply(session_id, message, finish_reason=FinishReason.STOP)

        assert is_stored == (session_id in self.histories)
        if is_stored:
            self.histories[session_id].append(message)

    @precondition(lambda self: 0 < len(self.histories) < 12)
    @rule(data=st.data(), owner=OWNERS)
    def fork(self, data: Any, owner: str | None) -> None:
        session_id = data.draw(st.sampled_from(list(self.histories)))
        stored = self.histories[session_id]
        at = data.draw(st.none() | st.integers(0, len(stored) + 1))
        if not self.is_visible(session_id, owner):
            with pytest.raises(SessionNotFound):
                self.store.fork(session_id, at, owner)
            return
        if at is not None and not 1 <= at <= len(stored):
            with pytest.raises(InvalidRequest):
                self.store.fork(session_id, at, owner)
            return

        fork = self.store.fork(session_id, at, owner)

        self.histories[fork.id] = stored[:at]
        self.owners[fork.id] = self.owners[session_id]

    @precondition(lambda self: self.histories)
    @rule(data=st.data(), owner=OWNERS)
    def delete(self, data: Any, owner: str | None) -> None:
        session_id = data.draw(st.sampled_from(list(self.histories)))
        if not self.is_visible(session_id, owner):
            with pytest.raises(SessionNotFound):
                self.store.delete(session_id, owner)
            return

        self.store.delete(session_id, owner)

        del self.histories[session_id], self.owners[session_id]

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = SessionStore(self.path)

    @invariant()
    def every_session_is_as_remembered(self) -> None:
        for session_id, history in self.histories.items():
            session = self.store.get(session_id, self.owners[session_id])
            assert [stored.message for stored in session.messages] == history
            assert session.info.num_messages == len(history)

    @invariant()
    def each_owner_lists_their_own(self) -> None:
        for owner in (None, "ann", "bob"):
            theirs = {session_id for session_id in self.histories if self.is_visible(session_id, owner)}
            assert {info.id for info in self.store.list(1000, 0, owner)} == theirs
            assert self.store.count(owner) == len(theirs)

    @invariant()
    def each_beginning_of_a_history_is_stored_once_and_nothing_else_is(self) -> None:
        beginnings = {
            (self.owners[session_id], tuple(history[:length]))
            for session_id, history in self.histories.items()
            for length in range(1, len(history) + 1)
        }
        with closing(sqlite3.connect(self.path)) as db:
            assert db.execute("SELECT count(*) FROM nodes").fetchone() == (len(beginnings),)
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


TestSessionsAgainstADictionary = SessionsAgainstADictionary.TestCase
TestSessionsAgainstADictionary.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
