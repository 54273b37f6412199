from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from myllm.errors import InvalidRequest, MyLLMError, SessionNotFound, Unavailable
from myllm.sessions import Reply, SessionStore, schema
from myllm.types import FinishReason, Message, ToolCall, Usage

SYSTEM = Message("system", "Be brief.")
HELLO = Message("user", "Hello?")
HI = Message("assistant", "Hi.", reasoning="They greet me.")
HOW = Message("user", "How are you?")


def contents(store: SessionStore, session_id: str) -> list[str]:
    return [stored.message.content for stored in store.get(session_id, None).messages]


def test_a_new_id_makes_a_session(store: SessionStore) -> None:
    history = store.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner=None)

    info = store.get("mine", None).info
    assert history.messages == (SYSTEM, HELLO)
    assert (info.id, info.title, info.model, info.num_messages) == ("mine", "Hello?", "tiny", 2)


def test_times_are_utc_with_milliseconds(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO], model="tiny", owner=None)

    session = store.get("mine", None)
    for time in (session.info.created_at, session.info.updated_at, session.messages[0].created_at):
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)


def test_new_messages_are_appended(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner=None)
    store.add_reply("mine", HI, finish_reason=FinishReason.STOP)

    history = store.append_turn("mine", [HOW], model="other", owner=None)

    assert history.messages == (SYSTEM, HELLO, HI, HOW)
    assert store.get("mine", None).info.model == "other"


def test_of_a_history_sent_again_only_the_rest_is_appended(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner=None)
    store.add_reply("mine", HI, finish_reason=FinishReason.STOP)

    history = store.append_turn("mine", [SYSTEM, HELLO, HI, HOW], model="tiny", owner=None)

    assert history.messages == (SYSTEM, HELLO, HI, HOW)


def test_a_reply_sent_back_without_its_reasoning_is_the_same_reply(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO], model="tiny", owner=None)
    store.add_reply("mine", HI, finish_reason=FinishReason.STOP)

    history = store.append_turn("mine", [HELLO, Message("assistant", "Hi."), HOW], model="tiny", owner=None)

    assert history.messages == (HELLO, HI, HOW)


@pytest.mark.parametrize(
    "changed",
    [
        Message("user", "Hi."),
        Message("assistant", "Hi"),
        Message("assistant", "Hi.", name="bot"),
        Message("assistant", "Hi.", tool_call_id="1"),
        Message("assistant", "Hi.", tool_calls=(ToolCall("1", "greet", "{}"),)),
    ],
)
def test_a_history_that_differs_in_what_was_said_is_appended_as_a_whole(store: SessionStore, changed: Message) -> None:
    store.append_turn("mine", [HELLO, HI], model="tiny", owner=None)

    history = store.append_turn("mine", [HELLO, changed, HOW], model="tiny", owner=None)

    assert history.messages == (HELLO, HI, HELLO, changed, HOW)


def test_a_history_sent_again_exactly_adds_nothing(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO, HI], model="tiny", owner=None)

    history = store.append_turn("mine", [HELLO, HI], model="tiny", owner=None)

    assert history.messages == (HELLO, HI)


def test_a_history_without_the_partial_reply_is_appended(store: SessionStore) -> None:
    """The contract compares with the whole stored history; the client that ignores the cancelled reply says HELLO twice."""
    store.append_turn("mine", [HELLO], model="tiny", owner=None)
    store.add_reply("mine", Message("assistant", "H"), finish_reason=FinishReason.CANCELLED)

    history = store.append_turn("mine", [HELLO], model="tiny", owner=None)

    assert [message.content for message in history.messages] == ["Hello?", "H", "Hello?"]


def test_a_history_without_its_system_message_is_appended(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner=None)

    history = store.append_turn("mine", [HELLO], model="tiny", owner=None)

    assert history.messages == (SYSTEM, HELLO, HELLO)


def test_a_turn_without_messages_is_refused_and_makes_no_session(store: SessionStore) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.append_turn("mine", [], model="tiny", owner=None)

    assert refused.value.param == "messages"
    assert store.count(None) == 0


@pytest.mark.parametrize("session_id", ["a", "A.b_c-9", "0" * 128, "123e4567-e89b-12d3-a456-426614174000"])
def test_good_ids_pass(session_id: str) -> None:
    SessionStore.check_id(session_id)


@pytest.mark.parametrize("session_id", ["", "-a", ".a", "a" * 129, "a/b", "a b", "a\n", "é", "a\x00", "\ud800", "٣", None, 7])
def test_bad_ids_are_refused(session_id: str, store: SessionStore) -> None:
    with pytest.raises(InvalidRequest, match="1 to 128") as refused:
        store.append_turn(session_id, [HELLO], model="tiny", owner=None)

    assert refused.value.param == "session_id"


@pytest.mark.parametrize("session_id", ["", "a\x00", "\ud800", "' OR 1=1 --", "a" * 100_000])
def test_what_can_be_no_id_is_not_found(session_id: str, store: SessionStore) -> None:
    store.append_turn("a", [HELLO], model="tiny", owner=None)

    with pytest.raises(SessionNotFound) as missed:
        store.get(session_id, None)

    assert len(missed.value.message.encode()) < 1000


def test_ids_differ_in_case(store: SessionStore) -> None:
    store.append_turn("a", [HELLO], model="tiny", owner=None)
    store.append_turn("A", [HOW], model="tiny", owner=None)

    assert contents(store, "a") == ["Hello?"]


def test_a_reply_keeps_what_is_known_of_it(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO], model="tiny", owner=None)

    assert store.add_reply("mine", HI, finish_reason=FinishReason.LENGTH, usage=Usage(7, 3, 5), model="tiny-2")

    asked, answered = store.get("mine", None).messages
    assert asked.reply is None
    assert answered.message == HI
    assert answered.reply == Reply(FinishReason.LENGTH, "tiny-2", Usage(7, 3, 5))


def test_a_reply_is_the_sessions_models_unless_told_otherwise(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO], model="tiny", owner=None)

    store.add_reply("mine", HI, finish_reason=FinishReason.STOP)

    assert store.get("mine", None).messages[1].reply == Reply(FinishReason.STOP, "tiny")


def test_an_equal_reply_elsewhere_does_not_rewrite_what_is_known(store: SessionStore) -> None:
    for name, reason in (("a", FinishReason.STOP), ("b", FinishReason.CANCELLED)):
        store.append_turn(name, [HELLO], model="tiny", owner=None)
        store.add_reply(name, HI, finish_reason=reason)

    assert store.get("a", None).messages[1].reply == Reply(FinishReason.STOP, "tiny")


def test_a_reply_to_a_deleted_session_is_dropped(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO], model="tiny", owner=None)
    store.delete("mine", None)

    assert not store.add_reply("mine", HI, finish_reason=FinishReason.STOP)
    assert store.count(None) == 0


def test_a_reply_does_not_reach_a_later_session_of_the_same_id(store: SessionStore) -> None:
    """Ann deletes her session while its answer is written, Bob takes the id: he must not get her answer."""
    anns = store.append_turn("shared", [HELLO], model="tiny", owner="ann")
    store.delete("shared", "ann")
    bobs = store.append_turn("shared", [HOW], model="tiny", owner="bob")

    assert not store.add_reply("shared", HI, finish_reason=FinishReason.STOP, born=anns.born)
    assert contents(store, "shared") == ["How are you?"]
    assert store.add_reply("shared", HI, finish_reason=FinishReason.STOP, born=bobs.born)


def test_a_session_of_another_owner_is_not_found(store: SessionStore) -> None:
    store.append_turn("anns", [HELLO], model="tiny", owner="ann")
    store.append_turn("nobodys", [HELLO], model="tiny", owner=None)

    for session_id in ("anns", "nobodys"):
        for attempt in (
            lambda name: store.append_turn(name, [HOW], model="tiny", owner="bob"),
            lambda name: store.get(name, "bob"),
            lambda name: store.export(name, "bob"),
            lambda name: store.set_title(name, "Bob's", "bob"),
            lambda name: store.fork(name, 1, "bob"),
            lambda name: store.delete(name, "bob"),
        ):
            with pytest.raises(SessionNotFound):
                attempt(session_id)

    assert contents(store, "anns") == ["Hello?"]
    assert (store.count("bob"), store.list(10, 0, "bob")) == (0, [])


def test_without_an_owner_everything_is_seen_and_stays_its_owners(store: SessionStore) -> None:
    store.append_turn("anns", [HELLO], model="tiny", owner="ann")

    store.append_turn("anns", [HOW], model="tiny", owner=None)
    fork = store.fork("anns", 1, None)

    assert {info.id for info in store.list(10, 0, "ann")} == {"anns", fork.id}
    assert store.count(None) == 2


def test_the_list_begins_with_the_session_used_last(store: SessionStore) -> None:
    for name in "abc":
        store.append_turn(name, [HELLO], model="tiny", owner=None)
    store.append_turn("a", [HOW], model="tiny", owner=None)
    store.add_reply("b", HI, finish_reason=FinishReason.STOP)
    store.set_title("c", "Renamed", None)

    assert [info.id for info in store.list(10, 0, None)] == ["b", "a", "c"]
    assert [info.id for info in store.list(1, 1, None)] == ["a"]
    assert store.list(10, 3, None) == []


@pytest.mark.parametrize(
    ("limit", "offset", "param"), [(0, 0, "limit"), (-1, 0, "limit"), (1001, 0, "limit"), (1, -1, "offset"), (1, 2**64, "offset")]
)
def test_a_page_out_of_range_is_refused(store: SessionStore, limit: int, offset: int, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.list(limit, offset, None)

    assert refused.value.param == param


def test_a_title_comes_with_the_first_user_message(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM], model="tiny", owner=None)
    assert store.get("mine", None).info.title is None

    store.append_turn("mine", [HELLO], model="tiny", owner=None)

    assert store.get("mine", None).info.title == "Hello?"


def test_a_title_set_by_hand_stays(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM], model="tiny", owner=None)

    assert store.set_title("mine", "Plans", None).title == "Plans"
    store.append_turn("mine", [HELLO], model="tiny", owner=None)

    assert store.get("mine", None).info.title == "Plans"


def test_a_fork_shares_the_beginning_and_goes_its_own_way(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM, HELLO, HI, HOW], model="tiny", owner=None)

    fork = store.fork("mine", 2, None)
    store.append_turn(fork.id, [HOW], model="tiny", owner=None)

    assert (fork.num_messages, fork.title, fork.model) == (2, "Hello?", "tiny")
    assert contents(store, fork.id) == ["Be brief.", "Hello?", "How are you?"]
    assert store.get("mine", None).info.num_messages == 4


def test_a_fork_at_nothing_shares_all(store: SessionStore) -> None:
    store.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner=None)

    assert store.fork("mine", None, None).num_messages == 2


@pytest.mark.parametrize("at", [0, -1, 3, 2**70, 1.5, "1"])
def test_a_fork_beyond_the_messages_is_refused_with_the_numbers(store: SessionStore, at: int) -> None:
    store.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner=None)

    with pytest.raises(InvalidRequest, match="takes 1 to 2") as refused:
        store.fork("mine", at, None)

    assert refused.value.param == "at"
    assert store.count(None) == 1


def test_an_export_is_json(store: SessionStore) -> None:
    call = ToolCall("1", "weather", '{"city": "Ulm"}')
    store.append_turn("mine", [HELLO], model="tiny", owner=None)
    store.add_reply("mine", Message("assistant", "", tool_calls=(call,)), finish_reason=FinishReason.STOP, usage=Usage(7, 3, 5))

    exported = json.loads(json.dumps(store.export("mine", None)))

    assert set(exported) == {"id", "title", "model", "num_messages", "created_at", "updated_at", "messages"}
    asked, answered = exported["messages"]
    assert set(asked) == {"role", "content", "created_at"}
    assert answered["tool_calls"] == [{"id": "1", "name": "weather", "arguments": '{"city": "Ulm"}'}]
    assert (answered["finish_reason"], answered["model"]) == ("stop", "tiny")
    assert answered["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 5}


@pytest.mark.parametrize(
    "content", ["", "\x00", "a\x00b\x00", "\u2028\ufeff\uffff", "👩‍🚀", "\r\n\x1b", '"\\', "x" * 5_000_000, "\x00" * 1_000_000]
)
def test_any_text_comes_back_as_it_was(store: SessionStore, content: str) -> None:
    message = Message("assistant", content, reasoning=content, tool_calls=(ToolCall(content[:9], content[:9], content),))

    store.append_turn("mine", [message], model="tiny", owner=None)

    assert store.get("mine", None).messages[0].message == message
    assert len(store.append_turn("mine", [message, HELLO], model="tiny", owner=None).messages) == 2


def test_a_turn_with_one_bad_message_stores_none_of_them(store: SessionStore) -> None:
    store.append_turn("mine", [HELLO], model="tiny", owner=None)

    with pytest.raises(InvalidRequest, match="surrogate"):
        store.append_turn("mine", [HOW, Message("user", "\ud800")], model="tiny", owner=None)
    with pytest.raises(InvalidRequest, match="surrogate"):
        store.append_turn("new", [HOW, Message("user", "\ud800")], model="tiny", owner=None)

    assert contents(store, "mine") == ["Hello?"]
    assert store.count(None) == 1


def test_sessions_survive_a_restart(path: Path) -> None:
    with closing(SessionStore(path)) as before:
        before.append_turn("mine", [SYSTEM, HELLO], model="tiny", owner="ann")
        before.add_reply("mine", HI, finish_reason=FinishReason.STOP, usage=Usage(7, 3))
        session = before.get("mine", None)

    with closing(SessionStore(path)) as after:
        assert after.get("mine", "ann") == session


def test_a_closed_store_says_so(store: SessionStore) -> None:
    store.close()
    store.close()

    with pytest.raises(Unavailable, match="closed"):
        store.count(None)


def test_a_file_locked_for_too_long_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.01)
    with closing(SessionStore(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        store.append_turn("mine", [HELLO], model="tiny", owner=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(Unavailable, match="locked") as refused:
            store.append_turn("mine", [HOW], model="tiny", owner=None)

        assert refused.value.retry_after_s == 1
        assert contents(store, "mine") == ["Hello?"]
        other.execute("ROLLBACK")
        store.append_turn("mine", [HOW], model="tiny", owner=None)


def test_a_full_disk_is_unavailable_and_loses_nothing(path: Path) -> None:
    with closing(SessionStore(path)) as store:
        store.append_turn("mine", [HELLO], model="tiny", owner=None)
        store._db.execute("PRAGMA max_page_count = 20")

        with pytest.raises(Unavailable, match="full"):
            store.append_turn("mine", [Message("user", "x" * 1_000_000)], model="tiny", owner=None)

        store.append_turn("mine", [HOW], model="tiny", owner=None)
        assert contents(store, "mine") == ["Hello?", "How are you?"]


def test_a_damaged_file_is_an_error_of_ours(path: Path) -> None:
    with closing(SessionStore(path)) as store:
        store.append_turn("mine", [Message("user", "x" * 100_000)], model="tiny", owner=None)
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)

    with closing(SessionStore(path)) as store, pytest.raises(MyLLMError, match=r"sessions\.db is damaged"):
        store.get("mine", None)
