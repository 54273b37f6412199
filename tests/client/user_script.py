"""What a user may write; a type checker reads it, nobody runs it. A line that ends with `# refused` must not pass."""

import asyncio
from datetime import datetime
from typing import assert_type

import myllm
from myllm.client import ChatOptions, Usage

client = myllm.Client("http://127.0.0.1:8000", api_key="key", timeout=3)

answer = client.chat("tiny", "Hello!", temperature=0.5, stop=["x"], session_id="s")
assert_type(answer, myllm.Answer)
assert_type(answer.text, str)
assert_type(answer.usage, Usage)
assert_type(answer.usage.total_tokens, int)

history = [{"role": "user", "content": "Hello!"}]
client.chat("tiny", history)
client.chat("tiny", [answer.message, {"role": "user", "content": "And now?"}], think="low", keep_alive="5m")
options = ChatOptions(temperature=0, seed=7)
client.chat("tiny", history, **options)

with client.chat_stream("tiny", "Hello!") as stream:
    for text in stream:
        assert_type(text, str)
    assert_type(stream.answer, myllm.Answer)
assert_type(client.generate_stream("tiny", "Once").finish(), myllm.Completion)
for progress in client.pull("llama3.2:1b"):
    assert_type(progress.completed, int)

assert_type([model.loaded for model in client.models()], list[bool])
assert_type(client.embed("tiny", ["a"]).embeddings, list[list[float]])
assert_type(client.session("s").read().created_at, datetime)
assert_type(client.tokenize("tiny", "a"), list[int])

client.chat("tiny", "x", temprature=1)  # refused
client.chat("tiny", 5)  # refused
client.chat("tiny", "x", max_tokens="many")  # refused
client.load("tiny", temperature=1)  # refused
client.dance()  # refused
myllm.Dance()  # refused
print(answer.txt)  # refused

try:
    client.generate("tiny", "x")
except myllm.RateLimited as error:
    assert_type(error.retry_after_s, int | None)
except (myllm.ServerUnreachable, myllm.errors.InsufficientStorage):
    pass


async def main() -> None:
    async with myllm.AsyncClient() as client:
        assert_type(await client.chat("tiny", "x"), myllm.Answer)
        async with client.session().chat_stream("tiny", "x", seed=1) as stream:
            async for text in stream:
                assert_type(text, str)
            assert_type(stream.answer.session_id, str)
        assert_type(await client.pull("x").finish(), myllm.PullProgress)
        client.chat_stream("tiny", "x", temprature=1)  # refused


asyncio.run(main())
