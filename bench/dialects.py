"""What a dialect costs: the same 32 streams through each of them, on one server, in turn.

The model, the prompts and so the answers are the same, and nothing but the dialect differs: how its bodies are read and how a
token is written. Reported are tokens per second, as a ratio to the native dialect's too, and the CPU time of the server's process.

    python bench/dialects.py --model models/tiny/myllm-tiny.Q4_K_M.gguf
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from overhead import read_cpu
from servers import MODEL_NAME, Load, MyLLM, Server, add_server_arguments, check_server_arguments, pin_client
from sse_client import post
from tables import render_table


class Dialect(NamedTuple):
    """How a dialect asks for the continuation of a prompt, and where its last event has the number of tokens."""

    path: str
    body: Callable[[str, int], dict[str, Any]]
    num_tokens: Callable[[dict[str, Any]], int]


def native(prompt: str, num_tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "stream": True, "options": {"temperature": 0, "max_tokens": num_tokens}}


def openai(prompt: str, num_tokens: int) -> dict[str, Any]:
    options = {"temperature": 0, "max_tokens": num_tokens}
    return {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **options}


def ollama(prompt: str, num_tokens: int) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": num_tokens, "repeat_penalty": 1.0}
    return {"prompt": prompt, "raw": True, "options": options}


DIALECTS = {
    "native": Dialect("/api/generate", native, lambda event: int(event["usage"]["completion_tokens"])),
    "openai": Dialect("/v1/completions", openai, lambda event: int(event["usage"]["completion_tokens"])),
    "ollama": Dialect("/ollama/api/generate", ollama, lambda event: int(event["eval_count"])),
}


async def run_round(server: Server, dialect: Dialect, num_streams: int, num_tokens: int, salt: int) -> tuple[float, float]:
    """Tokens per second, and CPU milliseconds of the server's process a token."""

    async def stream(index: int) -> Any:
        body = {"model": MODEL_NAME, **dialect.body(f"{index + salt * num_streams} Once upon a time", num_tokens)}
        return await (await post(server.port, dialect.path, body)).finished

    before = read_cpu(server)
    measured = await asyncio.gather(*(stream(index) for index in range(num_streams)))
    spent = read_cpu(server) - before
    tokens = sum(dialect.num_tokens(one.last_event) for one in measured)
    elapsed = max(one.ended for one in measured) - min(one.started for one in measured)
    return tokens / elapsed, 1000 * spent.http / tokens


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200, help="of each stream (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    check_server_arguments(parser, args)
    pin_client(args)
    load = Load(args.model, args.streams, args.streams * (args.tokens + 64), args.threads, args.server_cpus)
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in DIALECTS}
    with MyLLM(load, args.myllm) as server:
        for number in range(args.rounds + 1):
            first = number % len(DIALECTS)  # the first of a round finds none of its prompts in the cache, so they take turns
            for name in [*DIALECTS][first:] + [*DIALECTS][:first]:
                result = await run_round(server, DIALECTS[name], args.streams, args.tokens, number)
                if number:  # the first warms up
                    rounds[name].append(result)
    medians = {name: [statistics.median(column) for column in zip(*results, strict=True)] for name, results in rounds.items()}
    rows = [[name, f"{rate:.0f}", f"{rate / medians['native'][0]:.2f}", f"{cpu:.4f}"] for name, (rate, cpu) in medians.items()]
    print(render_table(["dialect", "tok/s", "ratio", "HTTP ms/token"], rows))


if __name__ == "__main__":
    asyncio.run(main())
