"""Threads, processes and sudden deaths, with real ones of each."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Barrier

import pytest

import myllm.sessions
from myllm.sessions import SessionStore
from myllm.types import FinishReason, Message

ROOT = Path(myllm.sessions.__file__).parents[2]
PROGRAM = Path(__file__).with_name("appending_process.py")


def start_appending(path: Path, session_id: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PROGRAM), str(path), session_id, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def said(store: SessionStore, session_id: str) -> list[tuple[str, str]]:
    """Role and the words before the padding, of each message."""
    messages = [stored.message for stored in store.get(session_id, None).messages]
    return [(message.role, message.content.removesuffix("x" * 20_000).rstrip()) for message in messages]


def expected(session_id: str, count: int) -> list[tuple[str, str]]:
    return [(role, f"{session_id} {number}") for number in range(count) for role in ("user", "assistant")]


@pytest.mark.parametrize("num_acknowledged", [1, 7, 40])
def test_a_killed_process_loses_nothing_that_it_acknowledged(path: Path, num_acknowledged: int) -> None:
    with start_appending(path, "mine", 1_000_000) as process:
        assert process.stdout is not None
        acknowledged = [int(line) for line in islice(process.stdout, num_acknowledged)]
        process.kill()

    with closing(SessionStore(path)) as store:
        found = said(store, "mine")
        assert acknowledged == list(range(num_acknowledged))
        assert found[: 2 * num_acknowledged] == expected("mine", num_acknowledged)
        assert found == expected("mine", len(found))[: len(found)]
        store.append_turn("mine", [Message("user", "and on")], model="tiny", owner=None)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("SELECT count(*) FROM nodes").fetchone() == (len(found) + 1,)


def test_two_processes_write_at_once(path: Path) -> None:
    processes = [start_appending(path, name, 50) for name in ("left", "right")]

    for process in processes:
        process.communicate()

    assert [process.returncode for process in processes] == [0, 0]
    with closing(SessionStore(path)) as store:
        assert said(store, "left") == expected("left", 50)
        assert said(store, "right") == expected("right", 50)


def test_two_processes_write_into_one_session(path: Path) -> None:
    """Callers order the turns of a session; where they do not, turns mix, but none is lost or torn."""
    processes = [start_appending(path, "mine", 30) for _ in range(2)]

    for process in processes:
        process.communicate()

    with closing(SessionStore(path)) as store:
        assert sorted(said(store, "mine")) == sorted(2 * expected("mine", 30))


def test_twenty_threads_over_twenty_sessions_never_mix(store: SessionStore) -> None:
    barrier = Barrier(20)

    def converse(number: int) -> None:
        name = f"session-{number}"
        barrier.wait()
        for turn in range(15):
            history = store.append_turn(name, [Message("user", f"{number} asks {turn}")], model="tiny", owner=str(number))
            assert len(history.messages) == 2 * turn + 1
            assert store.add_reply(name, Message("assistant", f"{number} hears {turn}"), finish_reason=FinishReason.STOP, born=history.born)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(converse, range(20)))

    for number in range(20):
        messages = [stored.message.content for stored in store.get(f"session-{number}", str(number)).messages]
        assert messages == [f"{number} {verb} {turn}" for turn in range(15) for verb in ("asks", "hears")]


def test_threads_that_make_one_session_at_once_make_it_once(store: SessionStore) -> None:
    barrier = Barrier(10)

    def append(number: int) -> int:
        barrier.wait()
        return store.append_turn("mine", [Message("user", str(number))], model="tiny", owner=None).born

    with ThreadPoolExecutor(10) as pool:
        born = set(pool.map(append, range(10)))

    assert len(born) == 1
    assert sorted(stored.message.content for stored in store.get("mine", None).messages) == [str(number) for number in range(10)]


def test_deletions_amid_turns_leave_no_orphan(store: SessionStore, path: Path) -> None:
    barrier = Barrier(8)

    def churn(number: int) -> None:
        barrier.wait()
        for turn in range(20):
            name = f"{number}-{turn}"
            store.append_turn(name, [Message("user", "the same"), Message("user", str(turn))], model="tiny", owner=None)
            store.delete(name, None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(8)))

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM nodes").fetchone() == (0,)


def test_another_process_reads_while_a_turn_is_written(store: SessionStore, path: Path) -> None:
    store.append_turn("mine", [Message("user", "before")], model="tiny", owner=None)

    with closing(SessionStore(path)) as reader, store._transaction("IMMEDIATE"):
        assert [stored.message.content for stored in reader.get("mine", None).messages] == ["before"]
