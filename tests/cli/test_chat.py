"""The interactive chat, in a real terminal."""

from __future__ import annotations

import json
import re
import uuid

import pytest
from cli.programs import CONTROL_C, CONTROL_D, HELLO
from live_server import wait_until

from myllm.cli.chat import is_complete, unwrap

FRANCE = "The capital of France is Paris."
GREEDY = ("--temperature", "0")
ENTER, ALT_ENTER = "\r", "\x1b\r"


@pytest.fixture
def chat(terminal):
    """A chat at its first prompt, and its session's id."""

    def open_chat(*arguments, model="tiny", **where):
        opened = terminal("run", model, *GREEDY, *arguments, **where)
        session_id = re.search(r"session (\S+)\. /help", opened.expect("Ctrl-D leaves."))[1]
        opened.expect(">>>")
        return opened, session_id

    return open_chat


def test_a_question_is_answered_and_ctrl_d_leaves(chat):
    opened, session_id = chat()

    opened.type(f"Hello!{ENTER}")
    opened.expect(HELLO)
    opened.expect(">>>")
    opened.type(CONTROL_D)

    assert opened.wait() == 0
    assert f"myllm run tiny --session {session_id}" in opened.seen


@pytest.mark.parametrize("word", ["/bye", "/exit"])
def test_a_goodbye_leaves_too(word, chat):
    opened, _ = chat()

    opened.type(f"{word}{ENTER}")

    assert opened.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(chat, endless):
    opened, session_id = chat(model="endless", at=endless)
    before = endless.num_generated("endless")

    opened.type(f"Write a very long story.{ENTER}")
    wait_until(lambda: endless.num_generated("endless") > before + 100, "the answer runs")
    opened.type(CONTROL_C)
    opened.expect("(stopped)")
    opened.expect(">>>")
    opened.type(f"/help{ENTER}")
    opened.expect("Ctrl-C stops an answer")
    opened.expect(">>>")
    opened.type(CONTROL_D)

    assert opened.wait() == 0
    reply = wait_until(lambda: endless.http.get(f"/api/sessions/{session_id}").json()["messages"][1:], "the reply was stored")[0]
    assert reply["finish_reason"] == "cancelled" and reply["content"]


def test_ctrl_c_at_an_empty_prompt_tells_how_to_leave(chat):
    opened, _ = chat()

    opened.type(CONTROL_C)

    opened.expect("(Ctrl-D or /bye leaves)")
    assert opened.process.poll() is None


def test_ctrl_c_throws_away_what_was_typed(chat, session):
    opened, session_id = chat()

    opened.type("half a question")
    opened.expect("half a question")
    opened.type(CONTROL_C)
    opened.expect(">>>")
    opened.type(f"Hello!{ENTER}")
    opened.expect(HELLO)

    assert session(session_id)["messages"][0]["content"] == "Hello!"


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(f'"""{ENTER}Hello!{ENTER}World{ENTER}"""{ENTER}', id="quotes"),
        pytest.param(f"Hello!{ALT_ENTER}World{ENTER}", id="alt-enter"),
        pytest.param(f"Hello!\\{ENTER}World{ENTER}", id="backslash"),
    ],
)
def test_a_question_of_two_lines(typed, chat, session):
    opened, session_id = chat()

    opened.type(typed)
    opened.expect("\n>>>")

    assert session(session_id)["messages"][0]["content"] == "Hello!\nWorld"


def test_a_session_is_resumed(chat, session):
    first, session_id = chat()
    first.type(f"Hello!{ENTER}")
    first.expect(HELLO)
    first.expect(">>>")
    first.type(CONTROL_D)
    first.wait()

    second, resumed_id = chat("--session", session_id)
    second.type(f"/history{ENTER}")
    second.expect(HELLO)
    second.expect(">>>")
    second.type(f"What is the capital of France?{ENTER}")
    second.expect(FRANCE)

    assert resumed_id == session_id
    assert len(session(session_id)["messages"]) == 4


def test_what_was_typed_before_comes_back_with_the_arrow(chat):
    first, _ = chat()
    first.type(f"Hello!{ENTER}")
    first.expect(HELLO)
    first.expect(">>>")
    first.type(CONTROL_D)
    first.wait()

    second, _ = chat()
    second.type("\x1b[A")
    second.expect("Hello!")
    second.type(ENTER)

    second.expect(HELLO)


def test_a_bad_option_is_refused_in_the_servers_words_and_the_old_one_stays(chat):
    opened, _ = chat()

    opened.type(f"/set temperature 7{ENTER}")
    opened.expect("error: 'options.temperature' takes a number <= 2")
    opened.expect(">>>")
    opened.type(f"/set temprature 1{ENTER}")
    opened.expect("error: there is no option temprature; it takes temperature, top_k")
    opened.expect(">>>")
    opened.type(f"/set{ENTER}")

    opened.expect("temperature = 0.0")


def test_an_option_shapes_the_next_answer(chat):
    opened, _ = chat()

    opened.type(f'/set stop [" I am"]{ENTER}')
    opened.expect('stop = [" I am"]')
    opened.expect(">>>")
    opened.type(f"Hello!{ENTER}")

    assert "tiny" not in opened.expect("\n>>>")


def test_clear_begins_a_new_session(chat, session):
    opened, session_id = chat()
    opened.type(f"Hello!{ENTER}")
    opened.expect(HELLO)
    opened.expect(">>>")

    opened.type(f"/clear{ENTER}")
    new_id = re.search(r"new session ([0-9a-f-]{36})", opened.expect("\n>>>"))[1]
    opened.type(f"Hello!{ENTER}")
    opened.expect(HELLO)

    assert new_id != session_id
    assert len(session(new_id)["messages"]) == 2


def test_a_system_message_in_mid_conversation_begins_a_new_one(chat):
    opened, _ = chat()
    opened.type(f"Hello!{ENTER}")
    opened.expect(HELLO)
    opened.expect(">>>")

    opened.type(f"/system Your name is Max.{ENTER}")
    opened.expect("new session")
    opened.expect("system message: Your name is Max.")
    opened.expect(">>>")
    opened.type(f"What is your name?{ENTER}")

    opened.expect("Max")


def test_retry_asks_the_last_question_again_in_a_copy(chat, session):
    opened, session_id = chat()
    for question, answer in (("Hello!", HELLO), ("What is the capital of France?", FRANCE)):
        opened.type(f"{question}{ENTER}")
        opened.expect(answer)
        opened.expect(">>>")

    opened.type(f"/retry{ENTER}")
    opened.expect(FRANCE)
    opened.expect(">>>")
    opened.type(f"/session{ENTER}")
    copy_id = re.search(r"session ([0-9a-f-]{36})", opened.expect("\n>>>"))[1]

    assert copy_id != session_id
    assert len(session(session_id)["messages"]) == len(session(copy_id)["messages"]) == 4


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("/fly", "error: there is no command /fly; /help tells which there are"),
        ("/retry", "error: there is no question yet to ask again"),
        ("/save", "error: /save takes the name of a file"),
        ("/model nope", "error: model 'nope' not found"),
        ("/session nope", "error: session 'nope' not found"),
        ("/set temperature NaN", "error: 'options.temperature' takes a number"),
    ],
)
def test_a_command_that_cannot_be_obeyed_leaves_the_chat_as_it_was(typed, reason, chat):
    opened, _ = chat()

    opened.type(f"{typed}{ENTER}")
    opened.expect(reason)
    opened.expect(">>>")
    opened.type(f"Hello!{ENTER}")

    opened.expect(HELLO)


def test_help_names_every_command_with_its_meaning(chat):
    opened, _ = chat()

    opened.type(f"/help{ENTER}")
    shown = opened.expect("Ctrl-C stops an answer")

    assert re.findall(r"^  (/\w+) +\w", shown, re.MULTILINE) == [
        "/help", "/bye", "/exit", "/clear", "/session", "/sessions", "/history", "/system", "/set", "/show", "/model", "/retry", "/save",
    ]  # fmt: skip


def test_commands_are_completed(chat):
    opened, _ = chat()

    opened.type("/his\t")
    opened.expect("tory")
    opened.type(f"{CONTROL_C}/set penalty_l\t")

    opened.expect("ast_n")


def test_a_conversation_is_saved_once(chat, tmp_path):
    opened, session_id = chat()
    opened.type(f"Hello!{ENTER}")
    opened.expect(HELLO)
    opened.expect(">>>")

    opened.type(f"/save {tmp_path / 'talk.json'}{ENTER}")
    opened.expect("saved in")
    opened.expect(">>>")
    opened.type(f"/save {tmp_path / 'talk.json'}{ENTER}")
    opened.expect("exists already; choose another name")

    assert json.loads((tmp_path / "talk.json").read_text())["id"] == session_id


def test_verbose_tells_the_speed_of_each_answer(chat):
    opened, _ = chat("--verbose")

    opened.type(f"Hello!{ENTER}")

    opened.expect("tokens/s")


def test_an_unknown_model_is_told_before_the_first_prompt(terminal):
    opened = terminal("run", "nope")

    assert opened.wait() == 1
    assert "error: model 'nope' not found" in opened.seen
    assert ">>>" not in opened.seen


def test_a_title_with_control_characters_cannot_paint_the_terminal(chat, myllm):
    hostile = f"{uuid.uuid4()}"
    myllm("run", "tiny", "\x1b]0;owned\x07\x1b[2J", "--session", hostile, "--max-tokens", "4")
    opened, _ = chat("--session", hostile)

    opened.type(f"/history{ENTER}")

    opened.expect("�]0;owned�")


@pytest.mark.parametrize(
    ("typed", "is_over"),
    [("", True), ("one", True), ("one\\", False), ('"""one', False), ('"""one"""', True), ('one """ two', False), ("one\\\ntwo", True)],
)
def test_when_a_question_is_over(typed, is_over):
    assert is_complete(typed) is is_over


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ('"""\none\ntwo\n"""', "one\ntwo"),
        ('"""one"""', "one"),
        ('""" a """ b """ c """', '""" a """ b """ c """'),
        ("one\\\ntwo", "one\ntwo"),
        ("a\\b", "a\\b"),
        ('"""', '"""'),
    ],
)
def test_what_was_meant_by_what_was_typed(typed, meant):
    assert unwrap(typed) == meant
