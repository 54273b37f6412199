"""Turns with ids of their own: where they are stored, what goes on from them, what their deletion takes along."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from myllm.errors import NotFound
from myllm.sessions import NewResponse, Reply, SessionStore, schema
from myllm.sessions.schema import MIGRATIONS, connect
from myllm.types import FinishReason, Message, Usage

ASKED = Message("user", "My name is Ada.")
TOLD = Message("assistant", "Hello, Ada.")
AGAIN = Message("user", "What is my name?")
NAME = Message("assistant", "Ada.")


def new(id: str, asked: Message, told: Message, previous: str | None = None) -> NewResponse:
    return NewResponse(id, previous, (asked,), told, Reply(FinishReason.STOP, "tiny", Usage(3, 2, 1)), f'{{"id":"{id}"}}')


def add(store: SessionStore, response: NewResponse, owner: str | None = None, *, may_go_on: bool = True) -> str:
    session_id = store.add_response(response, owner, may_go_on=may_go_on)
    assert session_id is not None
    return session_id


def contents(store: SessionStore, session_id: str) -> list[str]:
    return [stored.message.content for stored in store.get(session_id, None).messages]


def sessions(store: SessionStore) -> set[str]:
    return {info.id for info in store.list(100, 0, None)}


def test_a_first_response_begins_a_session(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))

    session = store.get(session_id, None)
    assert (session.info.title, session.info.model, session.info.num_messages) == ("My name is Ada.", "tiny", 2)
    assert session.messages[1].reply == Reply(FinishReason.STOP, "tiny", Usage(3, 2, 1))


def test_a_response_is_found_by_its_id_with_what_was_said_until_then(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))
    add(store, new("r2", AGAIN, NAME, "r1"))

    first, second = store.get_response("r1", None), store.get_response("r2", None)

    assert (first.session_id, first.messages, first.body) == (session_id, (ASKED, TOLD), '{"id":"r1"}')
    assert second.messages == (ASKED, TOLD, AGAIN, NAME)


def test_a_response_goes_on_in_the_session_of_the_previous_one(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))

    assert add(store, new("r2", AGAIN, NAME, "r1")) == session_id
    assert contents(store, session_id) == ["My name is Ada.", "Hello, Ada.", "What is my name?", "Ada."]


def test_where_something_was_said_since_it_goes_on_in_a_fork(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))
    store.append_turn(session_id, [Message("user", "Bye.")], model="tiny", owner=None)

    fork = add(store, new("r2", AGAIN, NAME, "r1"))

    assert contents(store, session_id) == ["My name is Ada.", "Hello, Ada.", "Bye."]
    assert contents(store, fork) == ["My name is Ada.", "Hello, Ada.", "What is my name?", "Ada."]
    assert store.get(fork, None).info.title == "My name is Ada."


def test_where_it_may_not_go_on_it_forks(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))

    fork = add(store, new("r2", AGAIN, NAME, "r1"), may_go_on=False)

    assert fork != session_id and contents(store, session_id) == ["My name is Ada.", "Hello, Ada."]


def test_two_responses_that_say_the_same_after_the_same_one_are_two(store: SessionStore) -> None:
    add(store, new("r1", ASKED, TOLD))
    add(store, new("r2", AGAIN, NAME, "r1"))
    add(store, new("r3", AGAIN, NAME, "r1"))

    store.delete_response("r2", None)

    assert store.get_response("r3", None).messages == (ASKED, TOLD, AGAIN, NAME)


def test_nothing_is_stored_where_the_previous_one_was_deleted(store: SessionStore) -> None:
    add(store, new("r1", ASKED, TOLD))
    store.delete_response("r1", None)

    assert store.add_response(new("r2", AGAIN, NAME, "r1"), None) is None
    assert sessions(store) == set()


def test_a_response_is_its_owners_and_an_admins(store: SessionStore) -> None:
    add(store, new("r1", ASKED, TOLD), "ada")

    with pytest.raises(NotFound):
        store.get_response("r1", "eve")
    with pytest.raises(NotFound):
        store.delete_response("r1", "eve")
    assert store.add_response(new("r2", AGAIN, NAME, "r1"), "eve") is None
    assert store.get_response("r1", "ada") == store.get_response("r1", None)


def test_a_fork_that_an_admin_made_is_the_owners(store: SessionStore) -> None:
    add(store, new("r1", ASKED, TOLD), "ada")

    add(store, new("r2", AGAIN, NAME, "r1"), None, may_go_on=False)

    assert store.get_response("r2", "ada").messages[-1] == NAME


@pytest.mark.parametrize("id", ["", "none", "a\x00b", "\ud800", "x" * 10_000, "' OR 1=1 --"])
def test_an_id_that_there_is_not_is_not_found(store: SessionStore, id: str) -> None:
    add(store, new("r1", ASKED, TOLD))

    with pytest.raises(NotFound):
        store.get_response(id, None)


def test_the_last_response_takes_its_turn_along(store: SessionStore, num_nodes: Callable[[], int]) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))
    add(store, new("r2", AGAIN, NAME, "r1"))

    store.delete_response("r2", None)

    assert contents(store, session_id) == ["My name is Ada.", "Hello, Ada."] and num_nodes() == 2


def test_an_earlier_response_leaves_its_turn_to_those_after_it(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))
    add(store, new("r2", AGAIN, NAME, "r1"))

    store.delete_response("r1", None)

    with pytest.raises(NotFound):
        store.get_response("r1", None)
    assert store.get_response("r2", None).messages == (ASKED, TOLD, AGAIN, NAME) and sessions(store) == {session_id}


def test_the_session_goes_with_its_last_response(store: SessionStore, num_nodes: Callable[[], int]) -> None:
    add(store, new("r1", ASKED, TOLD))
    add(store, new("r2", AGAIN, NAME, "r1"))

    store.delete_response("r1", None)
    store.delete_response("r2", None)

    assert sessions(store) == set() and num_nodes() == 0


def test_a_session_that_was_talked_to_since_stays_as_it_is(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))
    store.append_turn(session_id, [AGAIN], model="tiny", owner=None)

    store.delete_response("r1", None)

    assert contents(store, session_id) == ["My name is Ada.", "Hello, Ada.", "What is my name?"]


def test_a_deleted_session_takes_its_responses_along(store: SessionStore) -> None:
    session_id = add(store, new("r1", ASKED, TOLD))

    store.delete(session_id, None)

    with pytest.raises(NotFound):
        store.get_response("r1", None)


def test_a_file_from_before_there_were_responses_keeps_its_sessions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:1])
        with closing(connect(path)) as db:
            db.execute('INSERT INTO nodes (depth, hash, created_at, body) VALUES (1, x\'00\', 0, \'{"role":"user","content":"Hi"}\')')
            db.execute("INSERT INTO sessions (id, model, head, created_at, updated_at) VALUES ('old', 'tiny', 1, 0, 0)")

    with closing(SessionStore(path)) as store:
        add(store, new("r1", ASKED, TOLD))

        assert contents(store, "old") == ["Hi"] and store.get_response("r1", None).messages == (ASKED, TOLD)
