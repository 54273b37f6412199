"""Tokens per second of many streams at once, ours beside llama-server's, on the same file, threads and cells.

Both servers run all the time and take turns (A B A B …), so that whatever else the machine does hits both alike; a
median over the rounds is reported. Each stream has a prompt of its own, new in every round, so no cache helps either.

    python bench/throughput.py --model bench.gguf --llama-server path/to/llama-server
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass

from servers import LlamaServer, Load, MyLLM, Server, add_server_arguments, check_server_arguments, pin_client
from sse_client import Measured
from tables import quantile, render_table

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "small", "ships", "sail", "at", "dawn")
CELLS_PER_WORD = 8  # more than any word above takes, its space included


@dataclass(frozen=True)
class Round:
    """All streams of one round on one server."""

    streams: list[Measured]
    num_tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / (max(one.ended for one in self.streams) - min(one.started for one in self.streams))


def make_prompt(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


async def run_round(server: Server, prompts: list[str], num_tokens: int) -> Round:
    sent = await asyncio.gather(*(server.generate(prompt, num_tokens) for prompt in prompts))
    streams = await asyncio.gather(*(stream.finished for stream in sent))
    counted = [server.num_tokens(stream)[1] for stream in streams]
    if any(count != num_tokens for count in counted):
        raise RuntimeError(f"{server.name}: asked for {num_tokens} tokens a stream and got {min(counted)} to {max(counted)}")
    return Round(list(streams), sum(counted))


def start_servers(stack: ExitStack, args: argparse.Namespace, num_streams: int) -> list[Server]:
    cells = num_streams * (args.tokens + CELLS_PER_WORD * args.prompt_words + 64)
    load = Load(args.model, num_streams, cells, args.threads, args.server_cpus)
    servers: list[Server] = []
    if not args.without_myllm:
        servers.append(stack.enter_context(MyLLM(load, args.myllm)))
    if args.llama_server:
        servers.append(stack.enter_context(LlamaServer(load, args.llama_server)))
    return servers


def measure(args: argparse.Namespace, num_streams: int) -> dict[str, list[Round]]:
    """The rounds of each server, by its name; one short round before them loads and warms it."""
    rng = random.Random(num_streams)
    rounds: defaultdict[str, list[Round]] = defaultdict(list)
    with ExitStack() as stack:
        servers = start_servers(stack, args, num_streams)
        for server in servers:
            asyncio.run(run_round(server, [make_prompt(rng, args.prompt_words) for _ in range(num_streams)], 8))
        for _ in range(args.rounds):
            prompts = [make_prompt(rng, args.prompt_words) for _ in range(num_streams)]
            for server in servers:
                rounds[server.name].append(asyncio.run(run_round(server, prompts, args.tokens)))
    return rounds


def median_speed(rounds: list[Round]) -> float:
    return statistics.median(each.tokens_per_second for each in rounds)


def row(num_streams: int, name: str, rounds: list[Round], baseline: list[Round] | None) -> list[str]:
    streams = [stream for each in rounds for stream in each.streams]
    speeds = [each.tokens_per_second for each in rounds]
    first = [1000 * stream.time_to_first for stream in streams]
    gaps = [1000 * gap for stream in streams for gap in stream.gaps()]
    ratio = f"{median_speed(rounds) / median_speed(baseline):.2f}" if baseline else "-"
    return [
        str(num_streams), name, f"{median_speed(rounds):.0f}", f"{min(speeds):.0f}–{max(speeds):.0f}", ratio,
        f"{quantile(first, 0.5):.0f}", f"{quantile(first, 0.95):.0f}",
        f"{quantile(gaps, 0.5):.1f}", f"{quantile(gaps, 0.99):.1f}", f"{max(gaps):.1f}",
    ]  # fmt: skip


HEADER = ["streams", "server", "tok/s", "range", "ratio", "first p50", "first p95", "gap p50", "gap p99", "gap max"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64], help="streams at once (%(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="that each stream generates (%(default)s)")
    parser.add_argument("--prompt-words", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each server, in turn (%(default)s)")
    args = parser.parse_args()
    check_server_arguments(parser, args)
    if min(*args.streams, args.rounds, args.prompt_words) < 1 or args.tokens < 2:
        parser.error("--streams, --rounds and --prompt-words take 1 or more, --tokens 2 or more")
    return args


def main() -> None:
    args = parse_arguments()
    pin_client(args)
    rows = []
    for num_streams in args.streams:
        rounds = measure(args, num_streams)
        rows += [row(num_streams, name, each, rounds.get(LlamaServer.name)) for name, each in rounds.items()]
        print(f"{num_streams} streams: " + ", ".join(f"{name} {median_speed(each):.0f} tok/s" for name, each in rounds.items()), flush=True)
    print(f"\n{args.model.name}, {args.threads} threads, {args.tokens} tokens a stream, {args.rounds} rounds; times in ms,")
    print("`first` to the first event, `gap` between events; `ratio` to llama-server\n")
    print(render_table(HEADER, rows))


if __name__ == "__main__":
    main()
