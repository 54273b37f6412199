"""What a long prompt does to somebody else's stream: the pauses in one running answer while it is evaluated.

One stream runs; when it has found its pace, a second client sends a prompt of some 1,500 tokens. Reported are the
running stream's usual pause, its longest while the prompt was evaluated, and how long the newcomer waited for its
first token: the setting `max_gap_ms` trades the one for the other.

    python bench/latency.py --model bench.gguf --max-gap-ms 25 50 100 200 400
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from servers import LlamaServer, Load, MyLLM, Server, add_server_arguments, check_server_arguments, pin_client
from sse_client import Measured
from tables import render_table
from throughput import make_prompt

PACE_S = 0.5  # that the running stream has to itself before the long prompt comes


@dataclass(frozen=True)
class Intrusion:
    """One running stream that a long prompt met."""

    running: Measured
    newcomer: Measured
    prompt_tokens: int

    @property
    def usual_gap(self) -> float:
        before = [gap for gap, at in zip(self.running.gaps(), self.running.arrivals[1:], strict=True) if at < self.newcomer.started]
        return statistics.median(before)

    @property
    def longest_gap(self) -> float:
        """While the prompt was evaluated; the running stream goes on for longer than that, or `measure` complains."""
        after = zip(self.running.gaps(), self.running.arrivals, strict=False)
        return max(gap for gap, began in after if began + gap >= self.newcomer.started and began <= self.newcomer.arrivals[0])


async def words_per_token(server: Server, rng: random.Random) -> float:
    """How many of our words make a token of this model, asked of the server itself."""
    stream = await server.generate(make_prompt(rng, 100), 1)
    return 100 / server.num_tokens(await stream.finished)[0]


async def intrude(server: Server, args: argparse.Namespace, rng: random.Random) -> Intrusion:
    long_prompt = make_prompt(rng, round(args.prompt_tokens * await words_per_token(server, rng)))
    running = await server.generate(make_prompt(rng, 8), args.tokens)
    await running.first_event
    await asyncio.sleep(PACE_S)
    newcomer = await server.generate(long_prompt, 2)
    await newcomer.finished
    still_ran = not running.finished.done()
    still_ran = not running.finished.done()
    ended = await running.finished
    if not still_ran:
        raise RuntimeError(f"the running stream ended before the prompt was evaluated; give it more than --tokens {args.tokens}")
    return Intrusion(ended, newcomer.finished.result(), server.num_tokens(newcomer.finished.result())[0])


def servers_to_measure(args: argparse.Namespace) -> Iterator[tuple[str, Server]]:
    load = Load(args.model, 2, 2 * (args.tokens + 2 * args.prompt_tokens), args.threads, args.server_cpus)
    if not args.without_myllm:
        for max_gap_ms in args.max_gap_ms:
            yield f"myllm, max_gap_ms {max_gap_ms}", MyLLM(load, args.myllm, {"max_gap_ms": max_gap_ms})
    if args.llama_server:
        yield "llama-server", LlamaServer(load, args.llama_server)


async def measure(server: Server, args: argparse.Namespace) -> list[Intrusion]:
    rng = random.Random(1)
    await intrude(server, args, rng)  # the first loads the model, and teaches the server what a batch costs
    return [await intrude(server, args, rng) for _ in range(args.rounds)]


def row(name: str, intrusions: list[Intrusion]) -> list[str]:
    return [
        name,
        f"{1000 * statistics.median(each.usual_gap for each in intrusions):.1f}",
        f"{1000 * statistics.median(each.longest_gap for each in intrusions):.1f}",
        f"{1000 * max(each.longest_gap for each in intrusions):.1f}",
        f"{1000 * statistics.median(each.newcomer.time_to_first for each in intrusions):.0f}",
        f"{statistics.median(each.prompt_tokens for each in intrusions):,.0f}",
    ]


HEADER = ["server", "usual gap", "longest gap", "worst of all rounds", "newcomer's first", "prompt tokens"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--max-gap-ms", type=int, nargs="+", default=[25, 50, 100, 200, 400], help="settings to try (%(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=1500, help="of the newcomer's prompt, about (%(default)s)")
    parser.add_argument("--tokens", type=int, default=2000, help="of the running stream (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="for each setting (%(default)s)")
    args = parser.parse_args()
    check_server_arguments(parser, args)
    if min(*args.max_gap_ms, args.prompt_tokens, args.tokens, args.rounds) < 1:
        parser.error("--max-gap-ms, --prompt-tokens, --tokens and --rounds take 1 or more")
    return args


def main() -> None:
    args = parse_arguments()
    pin_client(args)
    rows = []
    for name, server in servers_to_measure(args):
        with server:
            rows.append(row(name, asyncio.run(measure(server, args))))
        print(f"{name}: longest gap {rows[-1][2]} ms", flush=True)
    print(f"\n{args.model.name}, {args.threads} threads, {args.rounds} rounds, medians unless said otherwise; times in ms\n")
    print(render_table(HEADER, rows))


if __name__ == "__main__":
    main()
