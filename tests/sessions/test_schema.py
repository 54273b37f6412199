from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread

import pytest

from myllm.errors import ConfigInvalid
from myllm.sessions import schema
from myllm.sessions.schema import MIGRATIONS, connect


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_new_file_has_the_current_schema_and_wal(path: Path) -> None:
    connect(path).close()

    assert pragma(path, "user_version") == len(MIGRATIONS)
    assert pragma(path, "journal_mode") == "wal"


def test_a_connection_waits_for_others_and_checks_foreign_keys(path: Path) -> None:
    with closing(connect(path)) as db:
        settings = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("busy_timeout", "foreign_keys", "synchronous")]

    assert settings == [10_000, 1, 1]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_only_the_user_may_read_the_file_and_its_log(path: Path) -> None:
    with closing(connect(path)) as db:
        db.execute("CREATE TABLE extra (x)")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {0o600}


def test_missing_folders_are_made(tmp_path: Path) -> None:
    connect(tmp_path / "a" / "b" / "sessions.db").close()

    assert (tmp_path / "a" / "b" / "sessions.db").exists()


def test_an_older_file_climbs_only_the_missing_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(path).close()

    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN colour TEXT",)))
    connect(path).close()

    assert pragma(path, "user_version") == len(MIGRATIONS) + 1
    with closing(connect(path)) as db:
        assert db.execute("SELECT colour FROM sessions").fetchall() == []


def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(path).close()

    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE half (x)", "no SQL at all")))
    with pytest.raises(ConfigInvalid, match="syntax error"):
        connect(path)

    monkeypatch.undo()
    with closing(connect(path)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)


def test_a_newer_schema_is_refused_with_both_numbers(path: Path) -> None:
    with closing(connect(path)) as db:
        db.execute("PRAGMA user_version = 99")

    with pytest.raises(ConfigInvalid, match=rf"schema 99, this MyLLM knows schemas up to {len(MIGRATIONS)}; upgrade"):
        connect(path)


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE nodes (theirs)")
    before = path.read_bytes()

    with pytest.raises(ConfigInvalid, match="another program"):
        connect(path)

    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not SQLite " * 100)

    with pytest.raises(ConfigInvalid, match="not a database"):
        connect(path)


def test_a_folder_in_the_files_place_is_refused(path: Path) -> None:
    path.mkdir()

    with pytest.raises(ConfigInvalid, match="cannot open the session file"):
        connect(path)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigInvalid, match="cannot open the session file"):
        connect(tmp_path / "file" / "sessions.db")


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Switching to WAL fails at once, whatever the busy timeout, if two do it together: 1 open in 100 was refused."""
    failures: list[Exception] = []

    def open_once(path: Path, barrier: Barrier) -> None:
        barrier.wait()
        try:
            connect(path).close()
        except ConfigInvalid as exc:
            failures.append(exc)

    for round_ in range(40):
        barrier = Barrier(8)
        threads = [Thread(target=open_once, args=(tmp_path / f"{round_}.db", barrier)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []
