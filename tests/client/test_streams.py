"""Streams at a real server, and at one that breaks them: what is left stops, what is cut off is told."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from live_server import wait_until

import myllm
from myllm.errors import ServerUnreachable

END = '{"done":true,"session_id":"s","full_text":"a\u2028b","usage":{"prompt_tokens":3},"finish_reason":"stop"}'


def is_idle(server):
    now = server.status("endless")
    return now["running"] == now["requests"] == 0


def ending(client, session_id):
    """How the session's last message ended; None while there is no reply."""
    with contextlib.suppress(myllm.SessionNotFound):
        return client.read_session(session_id).messages[-1].finish_reason


def test_a_stream_that_is_left_early_stops_its_generation(connect, endless):
    client = connect(endless.url)
    session = client.session()

    with session.chat_stream("endless", "Tell me a story.") as stream:
        assert next(iter(stream))

    wait_until(lambda: is_idle(endless), "nothing runs")
    assert wait_until(lambda: ending(client, session.id), "the reply is stored") == "cancelled"


def test_a_stream_that_is_left_without_a_with_stops_too(endless):
    with myllm.Client(endless.url) as client:
        session = client.session()

        for _ in session.chat_stream("endless", "Tell me a story."):
            break

        wait_until(lambda: is_idle(endless), "nothing runs")
        assert wait_until(lambda: ending(client, session.id), "the reply is stored") == "cancelled"


def test_an_async_stream_that_is_left_without_a_with_stops_too(endless):
    async def leave(session_id):
        async with myllm.AsyncClient(endless.url) as client:
            async for _ in client.session(session_id).chat_stream("endless", "Tell me a story."):
                break
            await asyncio.to_thread(wait_until, lambda: is_idle(endless), "nothing runs")

    asyncio.run(leave("left-by-break"))

    with myllm.Client(endless.url) as client:
        assert wait_until(lambda: ending(client, "left-by-break"), "the reply is stored") == "cancelled"


def test_a_task_that_is_cancelled_stops_its_generation(endless):
    async def cancel():
        begun = asyncio.Event()

        async def read():
            async with client.chat_stream("endless", "Tell me a story.", session_id="cancelled-task") as stream:
                async for _ in stream:
                    begun.set()

        async with myllm.AsyncClient(endless.url) as client:
            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

    assert asyncio.run(cancel())
    wait_until(lambda: is_idle(endless), "nothing runs")
    with myllm.Client(endless.url) as client:
        assert wait_until(lambda: ending(client, "cancelled-task"), "the reply is stored") == "cancelled"


def test_a_chat_that_is_not_streamed_is_cancelled_with_its_task(endless):
    before = endless.num_generated("endless")

    async def cancel():
        async with myllm.AsyncClient(endless.url) as client:
            task = asyncio.create_task(client.chat("endless", "Tell me a story.", session_id="cancelled-whole"))
            await asyncio.to_thread(wait_until, lambda: endless.num_generated("endless") > before + 100, "it runs")
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(cancel())

    with myllm.Client(endless.url) as client:
        assert wait_until(lambda: ending(client, "cancelled-whole"), "the reply is stored") == "cancelled"


def test_a_closed_stream_yields_nothing_more_and_has_no_answer(connect, endless):
    with connect(endless.url).generate_stream("endless", "Once") as stream:
        next(stream)
        stream.close()

        assert list(stream) == []
    with pytest.raises(RuntimeError, match="read the stream to its end"):
        _ = stream.answer


def test_a_stream_is_read_to_its_end_by_finish(client):
    with client.chat_stream("tiny", "Hello!", temperature=0) as stream:
        first = next(iter(stream))
        answer = stream.finish()

    assert answer.text.startswith(first)
    assert client.chat_stream("tiny", "Hello!", temperature=0).finish().text == answer.text


def test_a_stream_can_be_iterated_without_a_with(client):
    stream = client.generate_stream("tiny", "Once upon", temperature=0, max_tokens=5)

    assert "".join(stream) == stream.answer.text


def test_a_stream_that_is_never_read_sends_nothing(stranger, connect):
    connect(stranger.stream(END)).chat_stream("tiny", "Hello!")

    assert stranger.asked == []


def test_many_streams_run_side_by_side(server):
    async def read(client, seed):
        async with client.generate_stream("tiny", "Once upon", seed=seed, max_tokens=30) as stream:
            return "".join([text async for text in stream]) == stream.answer.text

    async def all_of_them():
        async with myllm.AsyncClient(server.url) as client:
            return await asyncio.gather(*(read(client, seed) for seed in range(32)))

    assert asyncio.run(all_of_them()) == [True] * 32


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_inside_a_text_ends_nothing(separator, stranger, connect):
    url = stranger.stream(f'{{"token":"a{separator}b","done":false}}', END.replace("\u2028", separator))

    with connect(url).chat_stream("tiny", "x") as stream:
        pieces = list(stream)

    assert pieces == [f"a{separator}b"] == [stream.answer.text]


def test_an_error_in_mid_stream_is_raised_after_what_came_before(stranger, connect):
    url = stranger.stream('{"token":"x","done":false}', '{"error":"the worker died","done":true}')
    pieces = []

    with pytest.raises(myllm.MyLLMError, match=r"^the worker died$"), connect(url).chat_stream("tiny", "x") as stream:
        pieces.extend(iter(lambda: next(stream), None))

    assert pieces == ["x"]


@pytest.mark.parametrize("events", [[], ['{"token":"x","done":false}']])
def test_a_stream_that_is_cut_off_is_an_error(events, stranger, connect):
    stream = connect(stranger.stream(*events)).chat_stream("tiny", "x")

    with pytest.raises(ServerUnreachable, match="before it was complete"):
        list(stream)
    with pytest.raises(RuntimeError, match="not complete"):
        _ = stream.answer


def test_a_stream_that_is_cut_off_in_a_chunk_is_an_error(stranger, connect):
    url = stranger.answer(200, b'data: {"token":"x","done":false}\n\n', content_type="text/event-stream", content_length="1000")

    with pytest.raises(ServerUnreachable, match=r"the connection to .* broke"):
        list(connect(url).chat_stream("tiny", "x"))


def test_a_refusal_is_raised_at_the_head_of_the_with(client):
    with pytest.raises(myllm.InvalidRequest, match=r"options.temperature"), client.chat_stream("tiny", "x", temperature=3):
        raise AssertionError("it was entered")


def test_a_refusal_is_raised_at_the_first_piece_where_there_is_no_with(client):
    stream = client.generate_stream("no-such-model", "x")

    with pytest.raises(myllm.ModelNotFound):
        next(stream)


@pytest.mark.parametrize(("body", "kind"), [(b"<html>hello</html>", "text/html"), (b"{}", "application/json")])
def test_something_else_than_events_is_an_error_of_ours(body, kind, stranger, connect):
    url = stranger.answer(200, body, content_type=kind)

    with pytest.raises(ServerUnreachable, match=f"is no MyLLM server.*{kind} came where events were asked for"):
        next(connect(url).chat_stream("tiny", "x"))
