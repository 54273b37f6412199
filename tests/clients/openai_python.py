"""The openai package for Python, sync and async, as its users write it."""

from __future__ import annotations

import asyncio

import openai
from checks import BASE_URL, HELLO, check, check_raises

URL = f"{BASE_URL}/v1"
ASK = [{"role": "user", "content": "Hello!"}]


def sync(client: openai.OpenAI) -> None:
    models = client.models.list()
    check("models.list", any(model.id == "tiny" for model in models), models)
    check("models.retrieve", client.models.retrieve("tiny").id == "tiny")

    answer = client.chat.completions.create(model="tiny", messages=ASK, temperature=0)
    check("chat", answer.choices[0].message.content == HELLO, answer)
    check("chat usage", answer.usage and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens)
    check("chat finish_reason", answer.choices[0].finish_reason == "stop")

    stream = client.chat.completions.create(model="tiny", messages=ASK, temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    check("chat stream", "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == HELLO, chunks)
    check("chat stream usage", chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0, chunks[-1])

    with client.chat.completions.stream(model="tiny", messages=ASK, temperature=0) as events:
        final = events.get_final_completion()
    check("chat.completions.stream helper", final.choices[0].message.content == HELLO, final)

    probable = client.chat.completions.create(model="tiny", messages=ASK, temperature=0, logprobs=True, top_logprobs=3, max_tokens=5)
    tokens = probable.choices[0].logprobs.content
    text = "".join(token.token for token in tokens)
    check("chat logprobs", text == probable.choices[0].message.content and len(tokens[0].top_logprobs) == 3, probable)

    several = client.chat.completions.create(model="tiny", messages=ASK, n=3, seed=7, temperature=1.5, max_tokens=12)
    check("chat n=3", sorted(choice.index for choice in several.choices) == [0, 1, 2], several)

    text = client.completions.create(model="tiny", prompt="Once upon", max_tokens=5, temperature=0)
    check("completions", text.choices[0].text and text.usage.completion_tokens == 5, text)
    echoed = client.completions.create(model="tiny", prompt="Once upon", max_tokens=4, temperature=0, echo=True, logprobs=2)
    check("completions echo, logprobs", "".join(echoed.choices[0].logprobs.tokens) == echoed.choices[0].text, echoed)
    pieces = client.completions.create(model="tiny", prompt="Once upon", max_tokens=5, temperature=0, stream=True)
    check("completions stream", "".join(piece.choices[0].text for piece in pieces if piece.choices) == text.choices[0].text)

    vectors = client.embeddings.create(model="tiny", input=["one", "two"])  # the SDK asks for base64 and decodes it
    check("embeddings", len(vectors.data) == 2 and abs(sum(x * x for x in vectors.data[0].embedding) - 1) < 1e-3, vectors.usage)
    short = client.embeddings.create(model="tiny", input="one", dimensions=8, encoding_format="float")
    check("embeddings dimensions", len(short.data[0].embedding) == 8)

    missing = check_raises(
        "an unknown model is NotFoundError", openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=ASK)
    )
    check("with code model_not_found", getattr(missing, "code", None) == "model_not_found", missing)
    wrong = check_raises(
        "a temperature of 3 is BadRequestError",
        openai.BadRequestError,
        lambda: client.chat.completions.create(model="tiny", messages=ASK, temperature=3),
    )
    check("with the parameter's name", getattr(wrong, "param", None) == "temperature", wrong)


def responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="My name is Ada.", temperature=0)
    check("responses.create", first.status == "completed" and first.output_text, first)
    second = client.responses.create(model="tiny", input="What is my name?", previous_response_id=first.id, temperature=0)
    check("responses previous_response_id", "Ada" in second.output_text, second.output_text)
    check("responses.retrieve", client.responses.retrieve(second.id).output_text == second.output_text)
    kinds = [event.type for event in client.responses.create(model="tiny", input="Hello!", temperature=0, stream=True)]
    check("responses stream", kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds)
    with client.responses.stream(model="tiny", input="Hello!", temperature=0) as events:
        final = events.get_final_response()
    check("responses.stream helper", final.output_text == HELLO, final)
    client.responses.delete(first.id)
    check_raises("a deleted response is NotFoundError", openai.NotFoundError, lambda: client.responses.retrieve(first.id))


async def asynchronous() -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key="none") as client:
        answer = await client.chat.completions.create(model="tiny", messages=ASK, temperature=0)
        check("async chat", answer.choices[0].message.content == HELLO, answer)
        stream = await client.chat.completions.create(model="tiny", messages=ASK, temperature=0, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        check("async chat stream", text == HELLO, text)
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="tiny", messages=ASK, temperature=0, max_tokens=10) for _ in range(16))
        )
        check("16 async chats at once", all(HELLO.startswith(one.choices[0].message.content) for one in answers))
        leaving = await client.chat.completions.create(model="endless", messages=ASK, stream=True)
        async for _ in leaving:
            break
        await leaving.close()
        check("async stream left early", True)
        vectors = await client.embeddings.create(model="tiny", input="one")
        check("async embeddings", len(vectors.data[0].embedding) == 256)


sync(openai.OpenAI(base_url=URL, api_key="none"))
responses(openai.OpenAI(base_url=URL, api_key="none"))
asyncio.run(asynchronous())
