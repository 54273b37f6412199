"""The anthropic package for Python, sync and async, as its users write it."""

from __future__ import annotations

import asyncio

import anthropic
from checks import BASE_URL, HELLO, check, check_raises

ASK = [{"role": "user", "content": "Hello!"}]
COLD = {"temperature": 0}  # this version of the package has no name for it


def sync(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="tiny", max_tokens=64, messages=ASK, extra_body=COLD)
    check("messages.create", answer.content[0].text == HELLO, answer)
    check("stop_reason and usage", answer.stop_reason == "end_turn" and answer.usage.output_tokens > 0, answer)
    short = client.messages.create(model="tiny", max_tokens=3, messages=ASK, extra_body=COLD)
    check("max_tokens", short.stop_reason == "max_tokens" and short.usage.output_tokens == 3, short)
    stopped = client.messages.create(model="tiny", max_tokens=64, messages=ASK, extra_body=COLD, stop_sequences=["tiny"])
    check("stop_sequences", stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == "tiny", stopped)
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]
    answer = client.messages.create(model="tiny", max_tokens=64, messages=blocks, system="Be brief.", extra_body=COLD)
    check("content blocks and system", answer.content[0].text, answer)
    with client.messages.stream(model="tiny", max_tokens=64, messages=ASK, extra_body=COLD) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("messages.stream", text == HELLO and final.content[0].text == HELLO and final.usage.output_tokens > 0, final)
    kinds = [event.type for event in client.messages.create(model="tiny", max_tokens=64, messages=ASK, extra_body=COLD, stream=True)]
    check("raw events", kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds)
    count = client.messages.count_tokens(model="tiny", messages=ASK)
    check("messages.count_tokens", count.input_tokens > 0, count)
    check_raises(
        "an unknown model is NotFoundError",
        anthropic.NotFoundError,
        lambda: client.messages.create(model="none", max_tokens=9, messages=ASK),
    )
    check_raises(
        "tools are refused by name",
        anthropic.BadRequestError,
        lambda: client.messages.create(model="tiny", max_tokens=9, messages=ASK, tools=[{"name": "t", "input_schema": {"type": "object"}}]),
        "tools",
    )


async def asynchronous() -> None:
    async with anthropic.AsyncAnthropic(base_url=BASE_URL, api_key="none") as client:
        answer = await client.messages.create(model="tiny", max_tokens=64, messages=ASK, extra_body=COLD)
        check("async messages.create", answer.content[0].text == HELLO, answer)
        async with client.messages.stream(model="tiny", max_tokens=64, messages=ASK, extra_body=COLD) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        check("async messages.stream", text == HELLO, text)


sync(anthropic.Anthropic(base_url=BASE_URL, api_key="none"))
asyncio.run(asynchronous())
