"""Errors as exceptions: the server's in its own words, and those of connections and of servers that are none of ours."""

from __future__ import annotations

import pytest
from live_server import LiveServer

import myllm
from myllm import errors
from myllm.client import calls
from myllm.errors import ConfigInvalid, InvalidRequest, MyLLMError, NotFound, ServerUnreachable


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.chat("no-such-model", "x"),
        lambda client: client.generate("no-such-model", "x"),
        lambda client: client.embed("no-such-model", "x"),
        lambda client: client.tokenize("no-such-model", "x"),
        lambda client: client.model("no-such-model"),
        lambda client: client.load("no-such-model"),
        lambda client: client.unload("no-such-model"),
        lambda client: client.delete_model("no-such-model"),
        lambda client: client.pull("no-such-model").finish(),
    ],
)
def test_a_model_that_is_not_there_is_told_as_such(ask, client):
    with pytest.raises(myllm.ModelNotFound, match="no-such-model"):
        ask(client)


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.read_session("no-such-session"),
        lambda client: client.rename_session("no-such-session", "x"),
        lambda client: client.delete_session("no-such-session"),
        lambda client: client.fork_session("no-such-session"),
        lambda client: client.session().read(),
    ],
)
def test_a_session_that_is_not_there_is_told_as_such(ask, client):
    with pytest.raises(myllm.SessionNotFound, match=r"session '\S+' not found"):
        ask(client)


def test_the_servers_words_are_the_message(client):
    with pytest.raises(myllm.InvalidRequest, match=r"^'options.max_tokens' takes") as raised:
        client.chat("tiny", "x", max_tokens=0)

    assert raised.value.message == str(raised.value)


def test_the_bundled_model_cannot_be_removed(client):
    with pytest.raises(myllm.Conflict):
        client.delete_model("tiny")


def test_an_endpoint_that_the_server_has_not_is_no_missing_model(client):
    with pytest.raises(NotFound, match="no such path") as raised:
        client.request(calls.Call("POST", "/api/dance", bytes, missing=errors.ModelNotFound))

    assert type(raised.value) is NotFound


def test_half_a_character_is_refused_before_it_is_sent(stranger, connect):
    with pytest.raises(InvalidRequest, match="half a character"):
        connect(stranger.answer(200, b"{}")).chat("tiny", "\ud83d")

    assert stranger.asked == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.InvalidRequest), (401, errors.Unauthorized), (403, errors.Forbidden), (404, errors.ModelNotFound),
        (405, errors.MethodNotAllowed), (409, errors.Conflict), (413, errors.BodyTooLarge), (418, MyLLMError), (429, errors.RateLimited),
        (500, MyLLMError), (502, errors.DownloadFailed), (503, errors.Unavailable), (504, errors.GenerationTimeout),
        (507, errors.InsufficientStorage),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ask", [lambda client: client.chat("m", "x"), lambda client: client.chat_stream("m", "x").finish()])
def test_each_status_has_its_class(status, error, ask, stranger, connect):
    url = stranger.answer(status, b'{"detail": "its own words", "more": {"deep": 1}}')

    with pytest.raises(MyLLMError, match=r"^its own words") as raised:
        ask(connect(url))

    assert (type(raised.value), raised.value.retry_after_s) == (error, None)


@pytest.mark.parametrize(("written", "seconds"), [("7", 7), ("0", 0), ("", None), ("soon", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
@pytest.mark.parametrize(("status", "error"), [(429, myllm.RateLimited), (503, myllm.Unavailable)])
def test_an_error_says_when_to_come_back(status, error, written, seconds, stranger, connect):
    url = stranger.answer(status, b'{"detail": "too many"}', retry_after=written)

    with pytest.raises(error) as raised:
        connect(url).chat("tiny", "x")

    assert raised.value.retry_after_s == seconds


def test_a_chat_may_miss_its_session_too(stranger, connect):
    url = stranger.answer(404, b'{"detail": "session \'x\' not found; list the sessions"}')

    with pytest.raises(myllm.SessionNotFound):
        connect(url).chat("tiny", "x", session_id="x")


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (200, b"<html>hello</html>", ServerUnreachable, "is no MyLLM server; check MYLLM_HOST"),
        (200, b"[1]", ServerUnreachable, "is no MyLLM server"),
        (200, b"\xff", ServerUnreachable, "is no MyLLM server"),
        (200, b'{"version": 5}', ServerUnreachable, "is no MyLLM server.*version"),
        (404, b"<html>no</html>", NotFound, "answered 404 and no reason; is it a MyLLM server?"),
        (404, b'{"detail": {"deep": 1}}', NotFound, "answered 404 and no reason"),
        (502, b"", MyLLMError, "answered 502 and no reason"),
        (302, b"", MyLLMError, "answered 302 and no reason"),
    ],
)
def test_a_server_that_is_not_ours_is_an_error_of_ours(status, body, error, words, stranger, connect):
    with pytest.raises(error, match=words) as raised:
        connect(stranger.answer(status, body)).status()

    assert type(raised.value) is error


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "https://127.0.0.1:1", "http://no.such.host.invalid"])
def test_nobody_there_is_told_with_the_address(url, connect):
    client = connect(url)

    with pytest.raises(ServerUnreachable, match=rf"no MyLLM server at {client.base_url.replace('[', '.').replace(']', '.')}"):
        client.status()
    with pytest.raises(myllm.ServerUnreachable), client.chat_stream("tiny", "x"):
        pass


def test_https_to_a_server_without_it_is_an_error_of_ours(stranger, connect):
    with pytest.raises(ServerUnreachable):
        connect(stranger.answer(200, b"{}").replace("http:", "https:")).status()


def test_a_server_that_does_not_answer_is_left_after_the_timeout(stranger, connect):
    stranger.is_silent = True

    with pytest.raises(ServerUnreachable, match="did not answer in time"):
        connect(stranger.url, timeout=0.1).chat("tiny", "x")
    with pytest.raises(ServerUnreachable, match="did not answer in time"):
        list(connect(stranger.url, timeout=0.1).chat_stream("tiny", "x"))


def test_the_key_goes_with_every_request(stranger, connect, monkeypatch):
    url = stranger.answer(200, b'{"models":[]}')
    monkeypatch.setenv("MYLLM_API_KEY", " from-the-environment\n")

    connect(url).models()
    connect(url, api_key="given").models()
    connect(url, api_key="").models()

    assert [headers["authorization"] for _, _, headers, _ in stranger.asked] == ["Bearer from-the-environment", "Bearer given", None]


@pytest.mark.parametrize(("given", "place"), [(None, "MYLLM_API_KEY"), ("schlüssel", "api_key"), ("a\nb", "api_key")])
def test_a_key_that_no_header_can_carry_is_refused(given, place, connect, monkeypatch):
    monkeypatch.setenv("MYLLM_API_KEY", "schlüssel")

    with pytest.raises(ConfigInvalid, match=f"^{place} has characters that no header can carry"):
        connect("http://127.0.0.1:1", api_key=given)


@pytest.mark.parametrize(("key", "is_told"), [("", True), ("wrong", False)])
def test_a_missing_key_is_told_with_the_variable(key, is_told, stranger, connect):
    url = stranger.answer(401, b'{"detail": "this server takes a key"}')

    with pytest.raises(myllm.Unauthorized, match=r"^this server takes a key") as raised:
        connect(url, api_key=key).models()

    assert ("MYLLM_API_KEY" in raised.value.message) is is_told


def test_the_address_is_that_of_the_environment_unless_one_is_given(connect, monkeypatch):
    monkeypatch.setenv("MYLLM_HOST", "0.0.0.0:9001")

    assert connect().base_url == "http://127.0.0.1:9001"
    assert connect("box:9002").base_url == "http://box:9002"
    assert connect("https://llm.example.org/base/").base_url == "https://llm.example.org/base"
    with pytest.raises(ConfigInvalid, match="host in base_url is 'ftp://x'"):
        connect("ftp://x")


def test_a_base_url_with_a_path_is_kept(stranger, connect):
    connect(stranger.answer(200, b'{"models":[]}') + "/behind/a/proxy/").models()

    assert stranger.asked[0][1] == "/behind/a/proxy/api/models"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_stands_between_this_machine_and_itself(proxy, host, server, connect, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)

    assert connect(server.url.replace("127.0.0.1", host)).health().status == "healthy"


def test_another_machine_is_reached_through_the_proxy(stranger, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", stranger.answer(200, b'{"models":[]}'))
    monkeypatch.setenv("http_proxy", stranger.url)

    connect("http://llm.example.org:8000").models()

    assert stranger.asked[0][1] == "http://llm.example.org:8000/api/models"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that wants a key, `secret`."""
    live = LiveServer(tmp_path_factory.mktemp("home"), MYLLM_API_KEYS="secret")
    yield live
    live.stop()


def test_a_server_with_keys_wants_one(guarded, connect):
    assert connect(guarded.url, api_key="secret").chat("tiny", "Hello!").text
    assert connect(guarded.url).health().status == "healthy"
    with pytest.raises(myllm.Unauthorized, match="set MYLLM_API_KEY to a key"):
        connect(guarded.url).models()
    with pytest.raises(myllm.Unauthorized), connect(guarded.url, api_key="wrong").chat_stream("tiny", "Hello!"):
        pass


def test_an_error_has_the_class_that_the_server_gave_it(server, connect):
    """The status alone says less: a prompt that is too long was the same InvalidRequest as a wrong field."""
    client = connect(server.url)

    with pytest.raises(myllm.ContextLengthExceeded, match="tiny"):
        client.generate("tiny", "one two three " * 2000)
    with pytest.raises(myllm.ModelNotFound):
        client.generate("none", "Hi")
