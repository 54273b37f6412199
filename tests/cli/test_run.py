"""`myllm run` with a question: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from cli.programs import COMMAND, HELLO, environment
from live_server import wait_until

GREEDY = ("--temperature", "0")


def test_the_answer_is_all_that_stdout_gets(myllm):
    answered = myllm("run", "tiny", "Hello!", *GREEDY)

    assert (answered.returncode, answered.stdout, answered.stderr) == (0, f"{HELLO}\n", "")


def test_a_question_comes_through_a_pipe(myllm):
    assert myllm("run", "tiny", *GREEDY, stdin="Hello!\n").stdout == f"{HELLO}\n"


def test_piped_text_follows_the_prompt(myllm, session):
    myllm("run", "tiny", "Say this again:", "--session", "piped", stdin="one\ntwo\n")

    assert session("piped")["messages"][0]["content"] == "Say this again:\n\none\ntwo"


def test_a_session_goes_on(myllm, session):
    myllm("run", "tiny", "Hello!", "--session", "goes-on", *GREEDY)
    myllm("run", "tiny", "What is the capital of France?", "--session", "goes-on", *GREEDY)

    messages = session("goes-on")["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"] == HELLO


def test_a_system_message_opens_the_conversation(myllm, session):
    myllm("run", "tiny", "What is your name?", "--system", "Your name is Max.", "--session", "with-system")

    assert [message["role"] for message in session("with-system")["messages"]] == ["system", "user", "assistant"]


def test_a_system_message_is_refused_where_the_conversation_has_begun(myllm):
    myllm("run", "tiny", "Hello!", "--session", "begun")

    refused = myllm("run", "tiny", "Hello!", "--session", "begun", "--system", "You are late.")

    assert refused.returncode == 1
    assert refused.stderr == "error: session begun has begun already; a system message opens a new one\n"


def test_json_is_the_servers_whole_answer(myllm):
    answer = json.loads(myllm("run", "tiny", "Hello!", "--json", *GREEDY).stdout)

    assert answer["message"] == {"role": "assistant", "content": HELLO}
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 10
    assert answer["session_id"]


def test_max_tokens_cuts_the_answer_and_a_note_says_so(myllm):
    cut = myllm("run", "tiny", "Hello!", "--max-tokens", "3", *GREEDY)

    assert HELLO.startswith(cut.stdout.rstrip("\n"))
    assert len(cut.stdout) < 30
    assert "the answer was cut off: it reached max_tokens" in cut.stderr


def test_a_stop_text_ends_the_answer_before_it(myllm):
    assert myllm("run", "tiny", "Hello!", "--stop", ", a small", *GREEDY).stdout == "Hello! I am tiny\n"


def test_verbose_tells_the_speed_on_stderr(myllm):
    answered = myllm("run", "tiny", "Hello!", "--verbose", *GREEDY)

    assert answered.stdout == f"{HELLO}\n"
    assert "tokens/s" in answered.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nope", "Hello!"], "error: model 'nope' not found; installed: tiny"),
        (["../sessions", "Hello!"], "error: model '../sessions' not found"),
        (["tiny", "Hello!", "--temperature", "3"], "error: 'options.temperature' takes a number <= 2"),
        (["tiny", "Hello!", "--max-tokens", "0"], "error: 'options.max_tokens' takes"),
        (["tiny", "Hello!", "--session", "a/b"], "error: session_id takes 1 to 128 letters"),
        (["tiny", "x" * 20_000], "error: prompt has"),
    ],
)
def test_a_refusal_is_the_servers_own_words(arguments, reason, myllm):
    refused = myllm("run", *arguments)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(reason)
    assert refused.stderr.count("\n") == 1


def test_a_context_that_is_too_small_for_the_prompt_is_refused_in_json_too(myllm):
    refused = myllm("run", "tiny", "x" * 20_000, "--json")

    assert (refused.returncode, refused.stdout) == (1, "")


@pytest.mark.parametrize("stdin", [None, "", "\n"])
def test_nothing_to_ask_is_a_usage_error(stdin, myllm):
    refused = myllm("run", "tiny", stdin=stdin)

    assert refused.returncode == 2
    assert "there is nothing to ask" in refused.stderr


@pytest.mark.parametrize("stdin", [b"\xff\xfe\x00\x80", "\u2028 \U0001f600 \x1b[31m".encode()])
def test_whatever_bytes_come_in_are_answered(stdin, myllm):
    answered = myllm("run", "tiny", "--max-tokens", "4", stdin=stdin)

    assert answered.returncode == 0
    assert "Traceback" not in answered.stderr


def test_an_argument_that_is_no_utf_8_is_answered(server):
    command = [*COMMAND, "run", "tiny", b"\xff\xfe", "--max-tokens", "4"]

    answered = subprocess.run(command, env=environment(server.home, server.url), stdin=subprocess.DEVNULL, capture_output=True, check=False)

    assert (answered.returncode, b"Traceback" in answered.stderr) == (0, False)


def test_ctrl_c_ends_the_program_and_the_answer(endless):
    command = [*COMMAND, "run", "endless", "Write a very long story.", "--session", "interrupted"]
    with subprocess.Popen(
        command, env=environment(endless.home, endless.url), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        first = os.read(running.stdout.fileno(), 9)
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=60)

    assert first
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert rest.endswith(b"\n")
    stored = wait_until(lambda: endless.http.get("/api/sessions/interrupted").json()["messages"][1:], "the reply was stored")
    assert stored[0]["finish_reason"] == "cancelled" and stored[0]["content"]
