from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from myllm.errors import InvalidRequest
from myllm.sessions import SessionStore
from myllm.sessions.message_tree import MessageTree, encode, root
from myllm.sessions.schema import connect
from myllm.types import Message, ToolCall

NumNodes = Callable[[], int]
TALK = tuple(Message("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(6))


def test_a_message_is_stored_as_json_without_its_defaults() -> None:
    assert encode(Message("user", 'a "b" ☃\x00')) == '{"role":"user","content":"a \\"b\\" ☃\\u0000"}'


def test_half_a_surrogate_pair_is_refused_wherever_it_is() -> None:
    hostile = [
        Message("user", "a\ud800b"),
        Message("user", "a", name="\udfff"),
        Message("assistant", "", reasoning="\ud83d"),
        Message("assistant", "", tool_calls=(ToolCall("1", "f", '{"x": "\ud800"}'),)),
    ]

    for message in hostile:
        with pytest.raises(InvalidRequest, match="surrogate") as refused:
            encode(message)
        assert refused.value.param == "messages"


def test_an_equal_history_of_another_session_stores_nothing(store: SessionStore, num_nodes: NumNodes) -> None:
    store.append_turn("a", TALK, model="m", owner=None)

    store.append_turn("b", TALK, model="m", owner=None)

    assert num_nodes() == 6


def test_a_history_that_branches_off_stores_only_the_branch(store: SessionStore, num_nodes: NumNodes) -> None:
    store.append_turn("a", TALK, model="m", owner=None)

    store.append_turn("b", [*TALK[:4], Message("user", "otherwise"), TALK[5]], model="m", owner=None)

    assert num_nodes() == 6 + 2


def test_the_same_words_at_another_place_are_another_message(store: SessionStore, num_nodes: NumNodes) -> None:
    store.append_turn("a", [TALK[0], TALK[0], TALK[0]], model="m", owner=None)

    assert num_nodes() == 3


def test_what_is_thought_is_part_of_a_message(store: SessionStore, num_nodes: NumNodes) -> None:
    """A node shared without it would hand one session's thoughts to another that only said the same."""
    store.append_turn("a", [TALK[0], Message("assistant", "Hi.", reasoning="Greet.")], model="m", owner=None)
    store.append_turn("b", [TALK[0], Message("assistant", "Hi.")], model="m", owner=None)

    assert num_nodes() == 3
    assert store.get("b", None).messages[1].message.reasoning is None


def test_two_owners_share_no_node(store: SessionStore, num_nodes: NumNodes) -> None:
    for owner in ("ann", "bob", None, "null"):
        store.append_turn(f"of-{owner}", TALK, model="m", owner=owner)

    assert num_nodes() == 4 * 6


def test_deleting_the_only_session_leaves_no_message(store: SessionStore, num_nodes: NumNodes) -> None:
    store.append_turn("a", TALK, model="m", owner=None)

    store.delete("a", None)

    assert num_nodes() == 0


def test_deleting_a_session_keeps_what_its_fork_reaches(store: SessionStore, num_nodes: NumNodes) -> None:
    store.append_turn("a", TALK, model="m", owner=None)
    fork = store.fork("a", 4, None)

    store.delete("a", None)

    assert num_nodes() == 4
    assert [stored.message for stored in store.get(fork.id, None).messages] == list(TALK[:4])


def test_deleting_a_fork_keeps_what_the_session_reaches(store: SessionStore, num_nodes: NumNodes) -> None:
    store.append_turn("a", TALK, model="m", owner=None)
    fork = store.fork("a", 4, None)
    store.append_turn(fork.id, [Message("user", "otherwise")], model="m", owner=None)

    store.delete(fork.id, None)

    assert num_nodes() == 6


def test_the_last_of_many_branches_takes_the_stem_with_it(store: SessionStore, num_nodes: NumNodes) -> None:
    for name in ("a", "b", "c"):
        store.append_turn(name, [*TALK, Message("user", name)], model="m", owner=None)

    remaining = []
    for name in ("b", "a", "c"):
        store.delete(name, None)
        remaining.append(num_nodes())

    assert remaining == [6 + 2, 6 + 1, 0]


def test_a_long_history_is_one_query(path: Path) -> None:
    with closing(connect(path)) as db:
        tree = MessageTree(db)
        messages = [Message("user", f"message {i}") for i in range(10_000)]
        db.execute("BEGIN")
        head = tree.grow(root(None), messages, 0.0)
        db.execute("COMMIT")
        queries: list[str] = []
        db.set_trace_callback(queries.append)

        loaded = tree.messages(head)

        assert list(loaded) == messages
        assert len(queries) == 1


def test_forgetting_a_long_history_is_one_statement(path: Path) -> None:
    with closing(connect(path)) as db:
        tree = MessageTree(db)
        db.execute("BEGIN")
        head = tree.grow(root(None), [Message("user", f"message {i}") for i in range(10_000)], 0.0)
        db.execute("COMMIT")
        queries: list[str] = []
        db.set_trace_callback(queries.append)

        tree.prune(head)

        assert len(queries) == 1
        assert db.execute("SELECT count(*) FROM nodes").fetchone() == (0,)
