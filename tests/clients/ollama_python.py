"""The ollama package for Python, sync and async: every method that does not need an account at ollama.com."""

from __future__ import annotations

import asyncio
from pathlib import Path

import ollama
from checks import HELLO, OLLAMA_URL, check, check_raises

URL = OLLAMA_URL
FILE = Path(__file__).resolve().parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
ASK = [{"role": "user", "content": "Hello!"}]
OPTIONS = {"temperature": 0, "num_ctx": 2048, "seed": 1, "stop": ["</s>"], "repeat_last_n": 64}


def names(client: ollama.Client) -> list[str | None]:
    return [model.model for model in client.list().models]


def writing(client: ollama.Client) -> None:
    answer = client.chat("tiny", messages=ASK, options=OPTIONS)
    check("chat", answer.message.content == HELLO and answer.done and answer.done_reason == "stop", answer)
    check(
        "chat counts and durations", answer.eval_count and answer.prompt_eval_count == 12 and answer.total_duration > answer.eval_duration
    )
    chunks = list(client.chat("tiny", messages=ASK, options=OPTIONS, stream=True))
    check("chat stream", "".join(chunk.message.content for chunk in chunks) == HELLO and chunks[-1].done, chunks[-1])
    probable = client.chat("tiny", messages=ASK, options=OPTIONS, logprobs=True, top_logprobs=2)
    check("chat logprobs", "".join(token.token for token in probable.logprobs) == HELLO and len(probable.logprobs[0].top_logprobs) == 2)

    text = client.generate("tiny", "My name is Ada.", options=OPTIONS)
    check("generate", "Ada" in text.response and text.context, text)
    more = client.generate("tiny", "What is my name?", context=text.context, options=OPTIONS)
    check("generate with the context of the last answer", "Ada" in more.response, more.response)
    pieces = list(client.generate("tiny", "Hello!", options=OPTIONS, stream=True))
    check("generate stream", "".join(piece.response for piece in pieces) == HELLO and pieces[-1].done)
    system = client.generate("tiny", "What is your name?", system="You are Marvin, a helpful assistant.", options=OPTIONS)
    check("generate system", "Marvin" in system.response, system.response)
    raw = client.generate("tiny", "Once upon a time", raw=True, options={**OPTIONS, "num_predict": 8})
    check("generate raw", raw.done_reason == "length" and raw.eval_count == 8, raw)
    filled = client.generate("tiny", "def add(a, b):\n    return ", suffix="\n", options=OPTIONS)
    check("generate suffix", filled.response == "a + b", filled.response)


def embedding(client: ollama.Client) -> None:
    vectors = client.embed("tiny", ["one", "two"])
    check("embed", [len(vector) for vector in vectors.embeddings] == [256, 256] and vectors.prompt_eval_count, vectors.model)
    short = client.embed("tiny", "one", dimensions=8)
    check("embed dimensions", len(short.embeddings[0]) == 8 and abs(sum(x * x for x in short.embeddings[0]) - 1) < 1e-3)
    check("embeddings", len(client.embeddings("tiny", "one").embedding) == 256)


def models(client: ollama.Client) -> None:
    check("list", "tiny:latest" in names(client), names(client))
    shown = client.show("tiny")
    check("show", shown.modelinfo["llama.context_length"] == 2048 and "tools" in shown.capabilities and shown.template, shown.details)
    check("ps", any(model.model == "tiny:latest" and model.context_length for model in client.ps().models), client.ps())
    check("copy", client.copy("tiny", "of-client").status == "success" and "of-client:latest" in names(client))
    made = client.create("of-client", from_="tiny", system="You are Marvin, a helpful assistant.", parameters={"temperature": 0})
    check("create from a model", made.status == "success", made)
    check("its system prompt", "Marvin" in client.chat("of-client", [{"role": "user", "content": "What is your name?"}]).message.content)
    digest = client.create_blob(FILE)
    steps = [step.status for step in client.create("of-client-file", files={FILE.name: digest}, stream=True)]
    check("create_blob, create from it", steps[0] == "parsing GGUF" and steps[-1] == "success", steps)
    check("chat with it", client.chat("of-client-file", ASK, options=OPTIONS).message.content == HELLO)
    for name in ("of-client", "of-client-file"):
        check(f"delete {name}", client.delete(name).status == "success" and f"{name}:latest" not in names(client))
    check("pull", client.pull("tiny").status == "success")
    check("pull stream", [step.status for step in client.pull("tiny", stream=True)][-1] == "success")


def errors(client: ollama.Client) -> None:
    missing = check_raises("an unknown model", ollama.ResponseError, lambda: client.chat("none", ASK), "model 'none' not found")
    check("has status 404", getattr(missing, "status_code", 0) == 404, missing)
    check_raises("an unknown model, streamed", ollama.ResponseError, lambda: list(client.chat("none", ASK, stream=True)), "not found")
    check_raises("push", ollama.ResponseError, lambda: client.push("tiny"), "no registry")
    wrong = check_raises("a wrong option", ollama.ResponseError, lambda: client.generate("tiny", "x", options={"num_ctx": "many"}))
    check("names it", 'option "num_ctx" must be of type integer' in str(wrong), wrong)


async def asynchronous() -> None:
    client = ollama.AsyncClient(host=URL)
    answer = await client.chat("tiny", messages=ASK, options=OPTIONS)
    check("AsyncClient.chat", answer.message.content == HELLO, answer)
    text = "".join([chunk.message.content async for chunk in await client.chat("tiny", messages=ASK, options=OPTIONS, stream=True)])
    check("AsyncClient.chat stream", text == HELLO, text)
    answers = await asyncio.gather(*(client.generate("tiny", "Hello!", options=OPTIONS) for _ in range(4)))
    check("AsyncClient.generate, four at once", [each.response for each in answers] == [HELLO] * 4, answers)
    check("AsyncClient.embed", len((await client.embed("tiny", "one")).embeddings[0]) == 256)
    check("AsyncClient.list", any(model.model == "tiny:latest" for model in (await client.list()).models))


sync = ollama.Client(host=URL)
check("load", sync.generate("tiny", "", keep_alive="10m").done_reason == "load")
writing(sync)
embedding(sync)
models(sync)
errors(sync)
asyncio.run(asynchronous())
check("unload", sync.generate("tiny", "", keep_alive=0).done_reason == "unload")
check("ps after it", "tiny:latest" not in [model.model for model in sync.ps().models])
