"""The pure half of a stream: bytes in whatever chunks become events, and events pieces, an answer or an error."""

from __future__ import annotations

import pytest

from myllm.client.calls import chat_stream, pull
from myllm.client.events import EventDecoder
from myllm.errors import MyLLMError, ServerUnreachable

TOKEN = b'data: {"token":"x","done":false}\n\n'
END = (
    b'data: {"done":true,"session_id":"s","full_text":"x","usage":{"prompt_tokens":3,"completion_tokens":2},'
    b'"finish_reason":"length","truncated_messages":2}\n\n'
)


def events(stream, size):
    decoder = EventDecoder()
    return [event for start in range(0, len(stream), size) for event in decoder.feed(stream[start : start + size])]


@pytest.fixture
def reader():
    return chat_stream("tiny", "Hello!", None, {}).reader()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_whole_however_the_bytes_arrive(size, end):
    stream = b': keep-alive\n\ndata: {"token":"a"}\n\n: keep-alive\n\ndata: {"token":"b"}\n\n'.replace(b"\n", end)

    assert events(stream, size) == [b'{"token":"a"}', b'{"token":"b"}']


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"event: message\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"\n\n\n", []),
        (b"data: unfinished\n", []),
    ],
)
def test_events_are_read_as_the_standard_says(stream, expected):
    assert events(stream, 1000) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\\u000b", "\\u000c", "\\r", "\\n"])
@pytest.mark.parametrize("size", [1, 1000])
def test_a_separator_inside_an_answer_ends_no_event(separator, size, reader):
    stream = ('data: {"token":"a' + separator + 'b","done":false}\n\n').encode()

    pieces = [piece for start in range(0, len(stream), size) for piece in reader.feed(stream[start : start + size])]

    assert pieces == [f"a{separator}b".encode().decode("unicode_escape") if separator.startswith("\\") else f"a{separator}b"]


def test_the_answer_is_there_when_the_last_event_has_come(reader):
    pieces = reader.feed(TOKEN)
    assert reader.answer is None

    pieces += reader.feed(END)
    reader.end()

    assert pieces == ["x"]
    assert (reader.answer.text, reader.answer.session_id, reader.answer.finish_reason) == ("x", "s", "length")
    assert (reader.answer.usage.total_tokens, reader.answer.truncated_messages) == (5, 2)


def test_an_error_event_is_raised_after_the_pieces_before_it(reader):
    pieces = reader.feed(TOKEN + b'data: {"error":"the worker died","done":true}\n\n' + TOKEN)

    assert pieces == ["x"]
    with pytest.raises(MyLLMError, match=r"^the worker died$"):
        reader.check()


def test_an_error_event_ends_a_pull_too():
    reader = pull("tiny").reader()

    assert reader.feed(b'data: {"error":"the disk is full","done":true}\n\n') == []
    with pytest.raises(MyLLMError, match=r"^the disk is full$"):
        reader.check()


def test_what_comes_after_the_end_is_not_read(reader):
    assert reader.feed(END + TOKEN + b"data: rubbish\n\n") == []
    assert reader.answer.text == "x"


@pytest.mark.parametrize("data", [b"data: rubbish\n\n", b"data: [1]\n\n", b'data: {"token":5}\n\n', b'data: {"token":"\xff"}\n\n'])
def test_an_event_that_is_none_of_ours_is_an_error_of_ours(data, reader):
    with pytest.raises(ServerUnreachable, match="not one of MyLLM's"):
        reader.feed(data)


@pytest.mark.parametrize("stream", [b"", TOKEN, b'data: {"tok', END[:-1]])
def test_a_stream_without_its_end_is_an_error(stream, reader):
    reader.feed(stream)

    with pytest.raises(ServerUnreachable, match="before it was complete"):
        reader.end()


def test_fields_of_a_newer_server_are_ignored(reader):
    reader.feed(b'data: {"reasoning":"hm","done":false}\n\n' + END.replace(b'"done"', b'"mood":{"deep":[1]},"done"'))

    assert reader.answer.text == "x"
