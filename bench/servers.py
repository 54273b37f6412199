"""The servers that a benchmark starts, measures and stops: MyLLM and llama-server, each through its public HTTP API.

Both get the same file, the same threads, as many sequences as there are streams and the same number of KV cells.
A server here is a child process on a free port with its output in a temporary file, which is shown if it fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sse_client import EventStream, Measured, post

START_TIMEOUT_S = 120
MODEL_NAME = "bench"


@dataclass(frozen=True)
class Load:
    """What a server is started for."""

    model: Path
    streams: int
    cells: int  # of KV cache, for all streams together
    threads: int
    cpus: frozenset[int] = frozenset()  # that the server may use; empty: all


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server; a context manager that stops it. What differs between servers is in the subclasses."""

    name = "server"

    def __init__(self, load: Load) -> None:
        self.load = load
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.log = Path(self.folder.name) / "server.log"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def prepare(self) -> None:
        """What must be done before the start."""

    async def generate(self, prompt: str, num_tokens: int) -> EventStream:
        raise NotImplementedError

    def num_tokens(self, measured: Measured) -> tuple[int, int]:
        """Tokens of the prompt and of the answer, as the server counted them."""
        raise NotImplementedError

    def __enter__(self) -> Server:
        self.prepare()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT, env=self.environment())
        if self.load.cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, self.load.cpus)
        try:
            self._await_health()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _await_health(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        last_words = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} did not become healthy within {START_TIMEOUT_S} s; its last words:\n{last_words}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


class MyLLM(Server):
    """This project's server, with a home of its own in which only the benchmark's model is installed."""

    name = "myllm"

    def __init__(self, load: Load, program: str, settings: dict[str, Any] | None = None) -> None:
        super().__init__(load)
        self.program = program
        self.settings = settings or {}

    def environment(self) -> dict[str, str]:
        settings = {
            "home": Path(self.folder.name) / "home",
            "threads": self.load.threads,
            "parallel": self.load.streams,
            "context_size": self.load.cells,
            "queue_size": 4 * self.load.streams,
            "keep_alive": -1,
            **self.settings,
        }
        return {**os.environ, **{f"MYLLM_{name.upper()}": str(value) for name, value in settings.items()}}

    def prepare(self) -> None:
        command = [self.program, "import", str(self.load.model), "--name", MODEL_NAME]
        done = subprocess.run(command, check=False, env=self.environment(), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    def command(self) -> list[str]:
        return [self.program, "serve", "--port", str(self.port), "--model", MODEL_NAME]

    async def generate(self, prompt: str, num_tokens: int) -> EventStream:
        options = {"temperature": 0, "max_tokens": num_tokens, "ignore_eos": True}
        return await post(self.port, "/api/generate", {"model": MODEL_NAME, "prompt": prompt, "stream": True, "options": options})

    def num_tokens(self, measured: Measured) -> tuple[int, int]:
        usage = measured.last_event["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]


class LlamaServer(Server):
    """llama.cpp's own server, with one slot a stream."""

    name = "llama-server"

    def __init__(self, load: Load, program: str) -> None:
        super().__init__(load)
        self.program = program

    def command(self) -> list[str]:
        load = self.load
        options = {"-m": load.model, "--port": self.port, "-np": load.streams, "-c": load.cells, "-t": load.threads, "-tb": load.threads}
        return [self.program, *(str(part) for option in options.items() for part in option), "--no-webui"]

    async def generate(self, prompt: str, num_tokens: int) -> EventStream:
        options = {"n_predict": num_tokens, "ignore_eos": True, "temperature": 0, "stream": True, "cache_prompt": True}
        return await post(self.port, "/completion", {"prompt": prompt, **options})

    def num_tokens(self, measured: Measured) -> tuple[int, int]:
        return measured.last_event["tokens_evaluated"], measured.last_event["tokens_predicted"]


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    beside_python = Path(sys.executable).parent / "myllm"
    default = str(beside_python) if beside_python.exists() else "myllm"
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file; bench/make_gguf.py writes one")
    parser.add_argument("--myllm", metavar="PATH", default=default, help="the program to measure (%(default)s)")
    parser.add_argument("--without-myllm", action="store_true", help="measure llama-server alone")
    parser.add_argument("--llama-server", metavar="PATH", help="also measure this llama-server")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="of each server's engine (%(default)s)")
    parser.add_argument("--server-cpus", type=cpu_set, default=frozenset(), metavar="0,1", help="Linux: pin the servers to these")
    parser.add_argument("--client-cpus", type=cpu_set, default=frozenset(), metavar="2,3", help="Linux: pin the client to these")


def cpu_set(text: str) -> frozenset[int]:
    return frozenset(int(number) for number in text.split(","))


def check_server_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.model.is_file():
        parser.error(f"{args.model} is not there; write it with: python bench/make_gguf.py --out {args.model}")
    programs = ([] if args.without_myllm else [args.myllm]) + ([args.llama_server] if args.llama_server else [])
    if not programs:
        parser.error("nothing to measure: --without-myllm needs --llama-server PATH")
    for program in programs:
        if shutil.which(program) is None:
            parser.error(f"there is no program {program}")


def pin_client(args: argparse.Namespace) -> None:
    if args.client_cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, args.client_cpus)
