"""What is sent: paths, bodies and options, held against what the server takes; and that both clients send the same."""

from __future__ import annotations

import inspect

import pytest

import myllm
from myllm.client import ChatOptions, LoadOptions, Options, calls
from myllm.errors import InvalidRequest
from myllm.server.native import bodies

RENAMED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__", "__iter__": "__aiter__", "__next__": "__anext__"}
PAIRS = [(myllm.Client, myllm.AsyncClient), (myllm.Session, myllm.AsyncSession), (myllm.Stream, myllm.AsyncStream)]


def test_the_options_are_those_that_the_server_takes():
    assert set(Options.__annotations__) == {*bodies.Options.__struct_fields__, "keep_alive"}
    assert set(ChatOptions.__annotations__) - set(Options.__annotations__) == {"think"}
    assert set(LoadOptions.__annotations__) == set(bodies.LoadBody.__struct_fields__)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (calls.chat("m", "x", None, {}), bodies.ChatBody),
        (calls.chat("m", "x", "s", {"think": True, "keep_alive": 0}), bodies.ChatBody),
        (calls.chat_stream("m", [{"role": "user", "content": "x"}], "s", {"seed": 1}), bodies.ChatBody),
        (calls.generate("m", "x", {"keep_alive": 0}), bodies.GenerateBody),
        (calls.generate_stream("m", "x", {}), bodies.GenerateBody),
        (calls.embed("m", "x"), bodies.EmbeddingsBody),
        (calls.tokenize("m", "x", add_special=True, parse_special=False), bodies.TokenizeBody),
        (calls.detokenize("m", (1, 2)), bodies.DetokenizeBody),
        (calls.load("m", {"parallel": 2}), bodies.LoadBody),
        (calls.pull("m"), bodies.PullBody),
        (calls.rename_session("s", "x"), bodies.TitleBody),
        (calls.fork_session("s", 2), bodies.ForkBody),
    ],
)
def test_a_body_has_no_field_that_the_server_would_ignore(call, body):
    assert call.body.keys() - set(body.__struct_fields__) == set()


def test_options_go_where_the_server_looks_for_them():
    body = calls.chat("m", "x", "s", {"temperature": 0, "stop": ["a"], "think": "low", "keep_alive": "5m", "seed": None}).body

    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "x"}], "session_id": "s", "stream": False,
        "options": {"temperature": 0, "stop": ["a"]}, "think": "low", "keep_alive": "5m",
    }  # fmt: skip


@pytest.mark.parametrize("send", [calls.generate, lambda m, p, o: calls.chat(m, p, None, o), lambda m, p, o: calls.load(m, o)])
def test_an_option_that_there_is_not_is_a_type_error(send):
    with pytest.raises(TypeError, match=r"there is no option 'temprature'; the options are .*keep_alive"):
        send("m", "x", {"temprature": 1})


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_json_has_not_is_refused(number):
    with pytest.raises(InvalidRequest, match=r"'keep_alive' is .* keep_alive=-1 is for ever"):
        calls.generate("m", "x", {"keep_alive": number})


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gpt-oss:20b", "/api/models/gpt-oss:20b"),
        ("meta-llama/Llama-2-7b-chat-hf", "/api/models/meta-llama/Llama-2-7b-chat-hf"),
        ("../sessions", "/api/models/%2E%2E/sessions"),
        ("a/./b", "/api/models/a/%2E/b"),
        ("a?b#c d%", "/api/models/a%3Fb%23c%20d%25"),
        ("ü", "/api/models/%C3%BC"),
    ],
)
def test_a_models_name_stays_inside_its_path(name, path):
    assert calls.model(name).path == path


@pytest.mark.parametrize("session_id", ["", ".", "..", "a/b", "/"])
def test_a_sessions_id_that_would_be_another_path_is_refused(session_id):
    with pytest.raises(InvalidRequest, match="session_id takes 1 to 128 letters"):
        calls.read_session(session_id)


def test_a_message_that_came_can_be_sent_again():
    answer = calls.chat("m", "x", None, {}).read(
        b'{"message":{"role":"assistant","content":"Hi"},"session_id":"s","usage":{},"finish_reason":"stop"}'
    )

    assert calls.chat("m", [answer.message], None, {}).body["messages"] == [myllm.Message(role="assistant", content="Hi")]


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_both_clients_have_the_same_methods_with_the_same_parameters(sync, other):
    def shape(cls, renamed):
        own = {renamed.get(name, name): value for name, value in vars(cls).items() if callable(value)}
        public = {name: value for name, value in own.items() if not name.startswith("_") or name in RENAMED.values()}
        return {name: [(p.name, p.kind, p.default) for p in inspect.signature(value).parameters.values()] for name, value in public.items()}

    assert shape(sync, RENAMED) == shape(other, {})


@pytest.mark.parametrize("cls", [cls for pair in PAIRS for cls in pair])
def test_every_method_is_explained(cls):
    unexplained = [name for name, value in vars(cls).items() if callable(value) and not name.startswith("_") and not value.__doc__]

    assert unexplained == []
