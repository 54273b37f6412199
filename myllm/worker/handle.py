"""The server's end of a worker: starts the process, sends it requests, and hands each request its own outputs.

One reader a worker: a step's message arrives once, is decoded once, and each of its deltas is put where the request that
waits for it looks. A process that dies is end-of-file here; every request that it had fails with WorkerDied, which
carries the signal and the last words of its log.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

from myllm.config import EngineOptions
from myllm.errors import MyLLMError, QueueFull, WorkerDied, from_code
from myllm.types import GPU, Delta, EngineStats, FinishReason, LoadPlan, ModelInfo, Prompt, SamplingParams, Span, Usage
from myllm.worker import messages as m

log = logging.getLogger("myllm.worker")

R = TypeVar("R", bound=m.Reply)
LAST_WORDS = 12  # lines of a worker's log that an error may quote
EXIT_WAIT_S = 5.0
DAMAGED = "; the file may be damaged, or of an architecture that this llama.cpp does not support"
HINTS: dict[int, str] = {
    signal.SIGKILL: "; the system may have run out of memory",
    signal.SIGABRT: DAMAGED,
    signal.SIGSEGV: DAMAGED,
    signal.SIGFPE: DAMAGED,
}
HEARTBEAT_S = 5.0


class Generation:
    """One accepted request. Iterate for lists of deltas: all that came since the last look, the last list ends it.

    first_at, last_at: when its first delta came and when its newest did, by `time.monotonic`, whoever reads them when.
    on_delta: called with each, also while nobody reads.
    """

    def __init__(self, worker: Worker, id: int) -> None:
        self.worker = worker
        self.id = id
        self.num_prompt_tokens = 0
        self.num_deltas = 0
        self.first_at = 0.0
        self.last_at = 0.0
        self.is_finished = False
        self.on_delta: Callable[[], None] | None = None
        self._deltas: list[Delta] = []
        self._error: MyLLMError | None = None
        self._news = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        """Raises WorkerDied, or what broke this one sequence."""
        while not self.is_finished:
            await self._news.wait()
            self._news.clear()
            deltas, self._deltas = self._deltas, []
            if deltas:
                self.is_finished = deltas[-1].finish is not None
                yield deltas
            if self._error and not self.is_finished:
                self.is_finished = True
                raise self._error

    def cancel(self) -> None:
        """Stop it in the worker; safe at any time, also after the end."""
        self.worker._forget(self)

    def _feed(self, delta: Delta) -> None:
        if delta.error:
            self.fail(from_code(*delta.error))
            return
        self._deltas.append(delta)
        self.num_deltas += 1
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        self._news.set()
        if self.on_delta is not None:
            self.on_delta()

    def fail(self, error: MyLLMError) -> None:
        """End it for its reader with this error, after what has already come."""
        self._error = error
        self._news.set()


async def find_gpus() -> list[GPU]:
    """The GPUs as a short-lived worker sees them now; none where it fails, with its reason in the log."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "myllm.worker.main", str(theirs.fileno()), "--devices",
            pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        theirs.close()  # so that reading ends where the child has said nothing
        _, errors = await process.communicate()
        if process.returncode:
            log.error("looking for GPUs failed: %s", errors.decode(errors="replace").strip().rpartition("\n")[2])
            return []
        frames = list(m.FrameBuffer().feed(ours.recv(1 << 16)))
    message = m.decode_from_worker(frames[0]) if frames else None
    return message.gpus if isinstance(message, m.Devices) else []


class _Pipe(asyncio.Protocol):
    """Bytes from the worker to messages, without a task switch in between."""

    def __init__(self, deliver: Callable[[m.FromWorker], None], on_lost: Callable[[], None]) -> None:
        self._deliver = deliver
        self._on_lost = on_lost
        self._buffer = m.FrameBuffer()

    def data_received(self, data: bytes) -> None:
        for frame in self._buffer.feed(data):
            self._deliver(m.decode_from_worker(frame))

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()


class Worker:
    """One child process with one model. Make it with `start`."""

    def __init__(self, name: str, queue_size: int) -> None:
        self.name = name
        self.queue_size = queue_size
        self.stats = EngineStats()
        self.info: ModelInfo
        self.died: asyncio.Future[WorkerDied] = asyncio.get_running_loop().create_future()
        self._is_stopping = False
        self._heard = time.monotonic()
        self._verdict: str | None = None  # why we killed it, where we did
        self._ids = itertools.count(1)
        self._generations: dict[int, Generation] = {}
        self._replies: dict[int, asyncio.Future[m.Reply]] = {}
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._on_progress: Callable[[float], None] = lambda fraction: None
        self._process: asyncio.subprocess.Process
        self._transport: asyncio.Transport
        self._log_reader: asyncio.Task[None]

    @classmethod
    async def start(
        cls,
        name: str,
        path: Path,
        options: EngineOptions,
        plan: LoadPlan,
        *,
        queue_size: int,
        on_progress: Callable[[float], None] = lambda fraction: None,
    ) -> Worker:
        """A ready worker. Raises ModelLoadFailed, InsufficientMemory, or WorkerDied where it fell while loading."""
        worker = cls(name, queue_size)
        worker._on_progress = on_progress
        await worker._spawn()
        try:
            worker._send(m.Start(name, str(path), options, plan))
            worker.info = await worker._ready
        except BaseException:
            await worker.stop()
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return not self._transport.is_closing() and not self.died.done()

    @property
    def memory_bytes(self) -> int:
        """Main memory that the process takes now: its own pages, and the weights that stay in the mapped file."""
        try:
            memory = psutil.Process(self.pid).memory_info()
        except psutil.Error:
            return 0
        shared = getattr(memory, "shared", 0)  # on Linux, file pages among them: weights, and llama.cpp itself
        return int(memory.rss - shared + self.info.mapped_bytes)

    @property
    def num_requests(self) -> int:
        """What it was asked and has not finished."""
        return len(self._generations.keys() | self._replies.keys())

    @property
    def max_requests(self) -> int:
        """So many it takes at once: those that run, and those that wait."""
        return self.info.parallel + self.queue_size

    async def generate(self, prompt: Prompt | list[int], params: SamplingParams, suffix: str | None = None) -> Generation:
        """An accepted generation; everything that can be wrong with the request is raised here, before any output.

        With a suffix it is what lies between the two. Raises UnsupportedByModel where `info.can_fill_in` is False.
        """
        if self.num_requests >= self.max_requests:
            waiting = self.num_requests - self.info.parallel
            raise QueueFull(f"model '{self.name}' has {waiting:,} requests waiting, its queue takes {self.queue_size:,}", retry_after_s=5)
        generation = Generation(self, next(self._ids))
        self._generations[generation.id] = generation
        try:
            reply = await self._ask(_generate(generation.id, prompt, params, suffix), m.Accepted)
        except BaseException:
            generation.cancel()
            raise
        generation.num_prompt_tokens = reply.num_prompt_tokens
        return generation

    async def embed(self, inputs: list[str | list[int]]) -> tuple[list[np.ndarray[tuple[int], np.dtype[np.float32]]], int]:
        """One L2-normalised vector an input, in order, and the number of tokens in all of them."""
        reply = await self._ask(m.Embed(next(self._ids), inputs), m.Embedded)
        return [np.frombuffer(vector, dtype="<f4") for vector in reply.vectors], reply.num_tokens

    async def rank(self, query: str, documents: list[str]) -> tuple[list[float], int]:
        """A score a document, in their order (larger is better, as the model gives it), and the tokens of all inputs.

        Raises UnsupportedByModel where `info.can_rank` is False; an empty or too long text with its place.
        """
        reply = await self._ask(m.Rank(next(self._ids), query, documents), m.Ranked)
        return reply.scores, reply.num_tokens

    async def tokenize(self, prompt: Prompt, *, add_special: bool = True) -> list[int]:
        return (await self._ask(m.Tokenize(next(self._ids), prompt, add_special), m.Tokenized)).token_ids

    async def detokenize(self, token_ids: list[int]) -> str:
        return (await self._ask(m.Detokenize(next(self._ids), token_ids), m.Detokenized)).content

    async def count_tokens(self, text: str) -> int:
        return len(await self.tokenize((Span(text),), add_special=False))

    async def ping(self) -> EngineStats:
        """Answered between two steps: how a worker shows that it is not stuck."""
        return (await self._ask(m.Ping(next(self._ids)), m.Pong)).stats

    async def watch(self, hang_s: float) -> None:
        """Ask for a sign of life whenever nothing was heard for a while; a worker that gives none for `hang_s` is killed.

        Returns when the worker is dead or stopping.
        """
        while self.is_alive and not self._is_stopping:
            await asyncio.sleep(HEARTBEAT_S)
            if time.monotonic() - self._heard < HEARTBEAT_S:
                continue
            try:
                await asyncio.wait_for(self.ping(), None if hang_s == math.inf else hang_s)
            except TimeoutError:
                self._verdict = f"gave no sign of life for {hang_s:g} s and was ended"
                self._process.kill()
                return
            except WorkerDied:
                return

    async def stop(self) -> None:
        """End the process and wait for it; generations that still run end as cancelled."""
        self._is_stopping = True
        for generation in list(self._generations.values()):
            usage = Usage(generation.num_prompt_tokens, generation.num_deltas)
            self._deliver(Delta(generation.id, "", FinishReason.CANCELLED, usage))
        self._transport.close()  # the worker ends when it reads end-of-file
        try:
            await asyncio.wait_for(self._process.wait(), EXIT_WAIT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._log_reader

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "myllm.worker.main", str(theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, limit=1 << 20, start_new_session=True,
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: _Pipe(self._receive, self._lost), sock=ours)
        self._log_reader = asyncio.create_task(self._read_log())

    def _send(self, message: m.ToWorker) -> None:
        if not self._transport.is_closing():
            self._transport.write(m.encode(message))

    async def _ask(self, message: m.Generate | m.Embed | m.Rank | m.Tokenize | m.Detokenize | m.Ping, expected: type[R]) -> R:
        """Send and await the answer; a refusal is raised, and a caller that leaves cancels what it asked for."""
        if not self.is_alive:
            raise await self._death()
        answer: asyncio.Future[m.Reply] = asyncio.get_running_loop().create_future()
        self._replies[message.id] = answer
        self._send(message)
        try:
            reply = await answer
        except asyncio.CancelledError:
            self._send(m.Cancel(message.id))
            raise
        finally:
            self._replies.pop(message.id, None)
        if isinstance(reply, m.Refused):
            raise from_code(reply.code, reply.message, reply.param)
        assert isinstance(reply, expected)
        return reply

    def _forget(self, generation: Generation) -> None:
        if self._generations.pop(generation.id, None) and not generation.is_finished:
            self._send(m.Cancel(generation.id))

    def _receive(self, message: m.FromWorker) -> None:
        self._heard = time.monotonic()
        if isinstance(message, m.Stepped):
            self.stats = message.stats
            for delta in message.deltas:
                self._deliver(delta)
        elif isinstance(message, m.Loading):
            self._on_progress(message.fraction)
        elif isinstance(message, m.Ready):
            self._ready.set_result(message.info)
        elif isinstance(message, m.LoadFailed):
            self._ready.set_exception(from_code(message.code, message.message))
        elif not isinstance(message, m.Devices) and (answer := self._replies.get(message.id)) and not answer.done():
            answer.set_result(message)

    def _deliver(self, delta: Delta) -> None:
        generation = self._generations.get(delta.id)
        if generation is None:
            return  # its client left while this step ran
        generation._feed(delta)
        if delta.finish is not None:
            del self._generations[delta.id]

    def _lost(self) -> None:
        self._obituary = asyncio.create_task(self._bury())

    async def _bury(self) -> None:
        error = await self._death()
        if not self.died.done() and not self._is_stopping:
            self.died.set_result(error)
        if not self._ready.done():
            self._ready.set_exception(error)
        for answer in self._replies.values():
            if not answer.done():
                answer.set_exception(error)
        generations, self._generations = self._generations, {}
        for generation in generations.values():
            generation.fail(error)

    async def _death(self) -> WorkerDied:
        """Why the process ended, in words for a user."""
        code = await self._process.wait()
        await self._log_reader
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = HINTS.get(-code, "")
        if self._verdict:
            how, hint = self._verdict, ""
        words = f"; its last words: {self._last_words[-1]}" if self._last_words else ""
        return WorkerDied(f"the worker of model '{self.name}' {how}{hint}{words}")

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            words = line.decode(errors="replace").rstrip()
            self._last_words.append(words)
            log.info("%s: %s", self.name, words)


def _generate(id: int, prompt: Prompt | list[int], params: SamplingParams, suffix: str | None) -> m.Generate:
    if isinstance(prompt, list):
        return m.Generate(id, params, token_ids=prompt, suffix=suffix)
    return m.Generate(id, params, prompt, suffix=suffix)
