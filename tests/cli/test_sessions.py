"""`myllm sessions` at a real server."""

from __future__ import annotations

import json
import uuid

import pytest
from cli.programs import HELLO


@pytest.fixture
def talk(myllm):
    """The id of a conversation of two messages."""
    session_id = str(uuid.uuid4())
    myllm("run", "tiny", "Hello!", "--session", session_id, "--temperature", "0")
    return session_id


def test_the_list_begins_with_the_newest(myllm, talk):
    listed = myllm("sessions", "list")
    newest = json.loads(myllm("sessions", "list", "--json", "--limit", "1").stdout)["sessions"]

    assert listed.stdout.splitlines()[1].split()[:4] == [talk, "Hello!", "tiny", "2"]
    assert [session["id"] for session in newest] == [talk]


def test_show_prints_what_was_said(myllm, talk):
    shown = myllm("sessions", "show", talk).stdout

    assert "user\nHello!\n" in shown
    assert f"assistant\n{HELLO}\n" in shown


def test_a_fork_takes_over_the_first_messages(myllm, talk, session):
    forked = myllm("sessions", "fork", talk, "--at", "1").stdout.strip()
    whole = json.loads(myllm("sessions", "fork", talk, "--json").stdout)

    assert [message["content"] for message in session(forked)["messages"]] == ["Hello!"]
    assert whole["num_messages"] == 2


def test_export_writes_markdown_and_json(myllm, talk, tmp_path, session):
    printed = myllm("sessions", "export", talk).stdout
    myllm("sessions", "export", talk, str(tmp_path / "talk.md"))
    myllm("sessions", "export", talk, str(tmp_path / "talk.json"))

    assert f"**assistant**\n\n{HELLO}\n" in printed
    assert (tmp_path / "talk.md").read_text() == printed
    assert json.loads((tmp_path / "talk.json").read_text()) == session(talk)
    assert json.loads(myllm("sessions", "export", talk, "--json").stdout) == session(talk)


def test_export_overwrites_no_file(myllm, talk, tmp_path):
    (tmp_path / "mine.md").write_text("mine")

    refused = myllm("sessions", "export", talk, str(tmp_path / "mine.md"))

    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    assert (tmp_path / "mine.md").read_text() == "mine"


def test_a_removed_session_is_gone(myllm, talk):
    refused = myllm("sessions", "rm", talk)
    removed = myllm("sessions", "rm", talk, "--yes")
    again = myllm("sessions", "rm", talk, "--yes")

    assert "add --yes" in refused.stderr
    assert removed.stdout == f"session {talk} is removed\n"
    assert again.returncode == 1
    assert f"session '{talk}' not found" in again.stderr


@pytest.mark.parametrize("session_id", ["nope", "..", "a/b", "../models", "", "%2e%2e", "x" * 5000, "\u2028?#"])
def test_an_id_that_is_none_is_an_error_whatever_it_looks_like(session_id, myllm):
    for verb in (["show"], ["rm", "-y"]):
        refused = myllm("sessions", *verb, session_id)

        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("error: ")
        assert "Traceback" not in refused.stderr


def test_a_fork_beyond_the_end_is_refused_in_the_servers_words(myllm, talk):
    refused = myllm("sessions", "fork", talk, "--at", "9")

    assert refused.returncode == 1
    assert "takes 1 to 2" in refused.stderr
