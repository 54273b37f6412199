"""CPU milliseconds that a server spends on a streamed token besides computing it: ours beside llama-server's.

Both stream the same completions over the same dialect (`/v1/completions`), on a model so small that its own computing is
little. A process is read by its threads: of llama-server the main thread computes and the others speak HTTP; of ours the server's
process speaks HTTP and the worker's computes. CPU time is what is told, not time on the clock, so a busy machine disturbs it
less; both servers take turns within each round all the same, and medians are reported.

    python bench/overhead.py --model models/tiny/myllm-tiny.Q4_K_M.gguf --llama-server path/to/llama-server
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from servers import MODEL_NAME, LlamaServer, Load, MyLLM, Server, add_server_arguments, check_server_arguments, pin_client
from sse_client import Measured, post
from tables import render_table


@dataclass(frozen=True)
class CPU:
    """Seconds since the process started."""

    http: float
    engine: float

    def __sub__(self, other: CPU) -> CPU:
        return CPU(self.http - other.http, self.engine - other.engine)


def read_cpu(server: Server) -> CPU:
    process = psutil.Process(server.process.pid)
    threads = thread_seconds(process.pid)
    if server.name == MyLLM.name:
        return CPU(sum(threads.values()), sum(sum(thread_seconds(child.pid).values()) for child in process.children(recursive=True)))
    engine = threads.pop(process.pid)
    return CPU(sum(threads.values()), engine)


def thread_seconds(pid: int) -> dict[int, float]:
    """CPU seconds by thread. Linux tells nanoseconds in `schedstat`; elsewhere, and in psutil, ticks of 10 ms have to do."""
    tasks = Path(f"/proc/{pid}/task")
    if tasks.is_dir():
        return {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks.iterdir()}
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}


async def run_round(server: Server, num_streams: int, num_tokens: int, salt: int) -> tuple[CPU, int]:
    """What the streams of one round cost, and how many tokens they brought."""

    async def stream(index: int) -> Measured:
        body = {
            "model": MODEL_NAME, "prompt": f"{salt} {index} Once upon a time", "max_tokens": num_tokens, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
        }  # fmt: skip
        return await (await post(server.port, "/v1/completions", body)).finished

    before = read_cpu(server)
    measured = await asyncio.gather(*(stream(index) for index in range(num_streams)))
    spent = read_cpu(server) - before
    return spent, sum(one.last_event["usage"]["completion_tokens"] for one in measured)


async def measure(servers: list[Server], args: argparse.Namespace, num_streams: int) -> list[list[str]]:
    rounds: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
    for number in range(args.rounds + 1):
        for server in servers:
            cpu, tokens = await run_round(server, num_streams, args.tokens, number)
            if number:  # the first warms up
                rounds[server.name].append((1000 * cpu.http / tokens, 1000 * cpu.engine / tokens))
    lines = []
    for name, spent in rounds.items():
        http, engine = (statistics.median(column) for column in zip(*spent, strict=True))
        lines.append([name, str(num_streams), f"{http:.4f}", f"{engine:.4f}", f"{http + engine:.4f}"])
    return lines


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=200, help="of each stream (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    check_server_arguments(parser, args)
    pin_client(args)
    rows: list[list[str]] = []
    for num_streams in args.streams:
        load = Load(args.model, num_streams, num_streams * (args.tokens + 64), args.threads, args.server_cpus)
        with ExitStack() as stack:
            servers: list[Server] = []
            if not args.without_myllm:
                servers.append(stack.enter_context(MyLLM(load, args.myllm)))
            if args.llama_server:
                servers.append(stack.enter_context(LlamaServer(load, args.llama_server)))
            rows += await measure(servers, args, num_streams)
    print(render_table(["server", "streams", "HTTP ms/token", "engine ms/token", "all"], rows))


if __name__ == "__main__":
    asyncio.run(main())
