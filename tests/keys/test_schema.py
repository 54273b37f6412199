from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread

import pytest

from myllm.errors import ConfigInvalid
from myllm.keys import schema
from myllm.keys.schema import MIGRATIONS, connect
from myllm.sessions import SessionStore


def test_a_new_file_has_the_current_schema_and_wal_and_its_folders(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "a" / "b" / "keys.db")) as db:
        told = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "journal_mode", "synchronous", "busy_timeout")]

    assert told == [len(MIGRATIONS), "wal", 1, 5000]


def test_an_older_file_climbs_only_the_missing_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(path).close()

    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE keys ADD COLUMN colour TEXT",)))
    connect(path).close()

    with closing(connect(path)) as db:
        assert db.execute("SELECT colour FROM keys").fetchall() == []
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


def test_a_newer_schema_is_refused_with_both_numbers(path: Path) -> None:
    with closing(connect(path)) as db:
        db.execute("PRAGMA user_version = 99")

    with pytest.raises(ConfigInvalid, match=rf"key schema 99, this MyLLM knows schemas up to {len(MIGRATIONS)}; upgrade"):
        connect(path)


def test_the_session_file_is_not_taken_for_a_key_file(path: Path) -> None:
    SessionStore(path).close()

    with pytest.raises(ConfigInvalid, match="another program"):
        connect(path)


@pytest.mark.parametrize("content", [b"not SQLite " * 100, None])
def test_what_is_no_database_is_refused(content: bytes | None, path: Path) -> None:
    path.write_bytes(content) if content else path.mkdir()

    with pytest.raises(ConfigInvalid, match="cannot open the key file"):
        connect(path)


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def open_once(file: Path, barrier: Barrier) -> None:
        barrier.wait()
        try:
            connect(file).close()
        except ConfigInvalid as exc:
            failures.append(exc)

    for round_ in range(20):
        barrier = Barrier(8)
        threads = [Thread(target=open_once, args=(tmp_path / f"{round_}.db", barrier)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE keys (theirs)")
    before = path.read_bytes()

    with pytest.raises(ConfigInvalid, match="another program"):
        connect(path)

    assert path.read_bytes() == before
