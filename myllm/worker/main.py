"""The child: one model in a process of its own, so that a crash in C is one dead child and the server lives.

Two threads. The inbox thread reads messages, tokenises and refuses what is wrong at once; the main thread runs
`engine.step()` for ever and sends one message of outputs a step. When the server is gone the inbox reads end-of-file
and the process ends, in the middle of a decode if need be.

    python -m myllm.worker.main FD [--devices]     FD: a connected stream socket, inherited; with --devices it tells the
                                                   machine's GPUs and ends
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from myllm.config import EngineOptions
from myllm.engine.embedder import MAX_INPUTS, Embedder, EmbeddingJob, RankingJob
from myllm.engine.engine import Engine, check_token_ids
from myllm.engine.llama import LlamaContext, LlamaModel, gpus, llama_log
from myllm.engine.prompts import fill_in, literal
from myllm.engine.ranking import Ranking
from myllm.engine.tokens import Int32Array, TokenBuffer
from myllm.errors import ContextLengthExceeded, InvalidRequest, MyLLMError, UnsupportedByModel
from myllm.types import EngineStats, LoadPlan, ModelInfo, Span
from myllm.worker import messages as m

log = logging.getLogger("myllm.worker")

EMBED_TOKENS_WHILE_STREAMING = 512


class Connection:
    """The worker's end of the socket; both threads send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: m.FromWorker) -> None:
        frame = m.encode(message)
        with self._lock:
            self._sock.sendall(frame)

    def receive(self, deliver: Callable[[m.ToWorker], None]) -> None:
        """Deliver messages until the server is gone."""
        buffer = m.FrameBuffer()
        while data := self._sock.recv(1 << 16):
            for frame in buffer.feed(data):
                deliver(m.decode_to_worker(frame))


class LoadedModel:
    """A model with what serves it: the engine (where it can generate) and the embedder."""

    def __init__(self, start: m.Start, on_progress: Callable[[float], None]) -> None:
        options = start.options
        began = time.monotonic()
        self.name = start.name
        self.llama = LlamaModel(Path(start.path), options, on_progress, gpu_layers=start.plan.gpu_layers)
        self.threads = options.threads or psutil.cpu_count(logical=False) or os.cpu_count() or 1
        self.threads = min(self.threads, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else self.threads
        self.context_length = start.plan.context_length
        self.embedder = Embedder(
            lambda num_tokens: LlamaContext.for_embeddings(
                self.llama, options, num_tokens=num_tokens, num_slots=MAX_INPUTS, threads=self.threads
            )
        )
        self.engine = self._make_engine(options, start.plan)
        self.ranking = Ranking(self.llama, name=self.name, max_tokens=self.llama.trained_context) if self.llama.can_rank else None
        self.info = self._describe(int((time.monotonic() - began) * 1000))

    def checked(self, token_ids: list[int], param: str) -> Int32Array:
        """Token ids from a client, held against the vocabulary."""
        check_token_ids(token_ids, self.llama.vocab_size, param)
        return TokenBuffer(token_ids).view

    def tokenize_prompt(self, message: m.Generate) -> Int32Array:
        """What is to be continued, or to be continued up to a suffix. Raises what is wrong with it."""
        llama, given, suffix = self.llama, message.token_ids, message.suffix
        if suffix is None:
            return llama.tokenize(message.prompt) if given is None else self.checked(given, "prompt")
        if llama.special.fill_in is None:
            raise UnsupportedByModel(f"model '{self.name}' has no fill-in-the-middle tokens, so it takes no 'suffix'", param="suffix")
        written = "".join(span.text for span in message.prompt)
        prefix = literal(llama, written) if given is None else self.checked(given, "prompt")
        return fill_in(llama.special, prefix, literal(llama, suffix))

    def tokenize_input(self, content: str | list[int], at: int) -> Int32Array:
        """One input to embed. Raises what is wrong with it, with its place in the request."""
        token_ids = self.checked(content, "input") if isinstance(content, list) else self.llama.tokenize((Span(content),))
        if not len(token_ids):
            raise InvalidRequest(f"'input' {at} is empty: it has no tokens", param="input")
        if len(token_ids) > self.llama.trained_context:
            raise ContextLengthExceeded(
                f"'input' {at} has {len(token_ids):,} tokens, model '{self.name}' takes {self.llama.trained_context:,}; split it",
                param="input",
            )
        return token_ids

    def _make_engine(self, options: EngineOptions, plan: LoadPlan) -> Engine | None:
        if not self.llama.can_generate:
            return None
        context = LlamaContext.for_generation(
            self.llama, options, num_cells=plan.num_cells, num_slots=plan.num_slots, num_rows=plan.num_rows, threads=self.threads
        )
        if context.memory is None:  # an encoder: it has no KV cache and so nothing to generate with
            context.close()
            return None
        return Engine(
            self.llama,
            context,
            name=self.name,
            context_length=self.context_length,
            num_slots=plan.num_slots,
            can_cut=not self.llama.is_recurrent,
            max_gap_s=options.max_gap_ms / 1000,
            threads=self.threads,
        )

    def _describe(self, load_ms: int) -> ModelInfo:
        llama, engine = self.llama, self.engine
        return ModelInfo(
            context_length=self.context_length,
            num_cells=engine.context.num_cells if engine else 0,
            parallel=len(engine.cache.slots) if engine else 1,
            vocab_size=llama.vocab_size,
            embedding_length=llama.embedding_length,
            bos_token=llama.bos_token,
            eos_token=llama.eos_token,
            control_tokens=llama.control_tokens,
            chat_template=llama.chat_template,
            can_generate=engine is not None,
            is_recurrent=llama.is_recurrent,
            can_fill_in=engine is not None and llama.special.fill_in is not None,
            can_rank=self.ranking is not None,
            load_ms=load_ms,
            mapped_bytes=llama_log.mapped_bytes(),
            device_bytes=llama_log.device_bytes(),
        )


class Worker:
    """Takes messages to the engine and its outputs back."""

    def __init__(self, connection: Connection, model: LoadedModel) -> None:
        self.connection = connection
        self.model = model
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def receive(self, message: m.ToWorker) -> None:
        """On the inbox thread: do what needs no engine at once, queue the rest. What fails is refused, never lost."""
        try:
            self._handle(message)
        except MyLLMError as error:
            self._refuse(message, error)
        except Exception as error:
            log.exception("message %s failed", type(message).__name__)
            self._refuse(message, MyLLMError(f"{type(error).__name__}: {error}"))

    def run(self) -> None:
        """The main thread: commands, one step, one message; sleeps while there is nothing to do."""
        while True:
            self._take_commands()
            deltas = self.model.engine.step() if self.model.engine else []
            self._embed()
            if deltas and self.model.engine:
                self.connection.send(m.Stepped(deltas, self.model.engine.stats()))

    def _handle(self, message: m.ToWorker) -> None:
        match message:
            case m.Generate():
                self._generate(message)
            case m.Embed(id, inputs):
                self._start(EmbeddingJob(id, self._to_embed(inputs)))
            case m.Rank(id, query, documents):
                self._start(RankingJob(id, self._to_rank(query, documents)))
            case m.Tokenize(id, prompt, add_special):
                found = self.model.llama.tokenize(prompt, add_special=add_special)
                self.connection.send(m.Tokenized(id, found.tolist()))
            case m.Detokenize(id, token_ids):
                self.model.checked(token_ids, "tokens")
                self.connection.send(m.Detokenized(id, self.model.llama.detokenize(token_ids)))
            case m.Cancel(id):
                self._commands.put(lambda: self._cancel(id))
            case m.Ping(id):
                self._commands.put(lambda: self._pong(id))

    def _generate(self, message: m.Generate) -> None:
        engine, model = self.model.engine, self.model
        if engine is None:
            what = "ranks documents" if model.ranking else "makes embeddings"
            raise UnsupportedByModel(f"model '{model.name}' {what} and cannot generate text", param="model")
        token_ids = model.tokenize_prompt(message)
        engine.check(token_ids, message.params)
        self.connection.send(m.Accepted(message.id, len(token_ids)))
        self._commands.put(lambda: engine.add(message.id, token_ids, message.params))

    def _to_embed(self, inputs: list[str | list[int]]) -> list[Int32Array]:
        if self.model.ranking:
            raise UnsupportedByModel(f"model '{self.model.name}' ranks documents and makes no embeddings", param="model")
        return [self.model.tokenize_input(content, at) for at, content in enumerate(inputs)]

    def _to_rank(self, query: str, documents: list[str]) -> list[Int32Array]:
        if self.model.ranking is None:
            raise UnsupportedByModel(f"model '{self.model.name}' was not made to rank documents; take a reranker", param="model")
        return self.model.ranking.inputs(query, documents)

    def _start(self, job: EmbeddingJob) -> None:
        self._commands.put(lambda: self.model.embedder.add(job))

    def _refuse(self, message: m.ToWorker, error: MyLLMError) -> None:
        self.connection.send(m.Refused(getattr(message, "id", 0), error.code, error.message, error.param))

    def _take_commands(self) -> None:
        is_idle = not (self.model.engine and self.model.engine.has_work) and not self.model.embedder.has_work
        if is_idle:
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()

    def _cancel(self, id: int) -> None:
        self.model.embedder.cancel(id)
        if self.model.engine:
            self.model.engine.cancel(id)
            self.connection.send(m.Stepped([], self.model.engine.stats()))  # no step may follow that would tell

    def _pong(self, id: int) -> None:
        self.connection.send(m.Pong(id, self.model.engine.stats() if self.model.engine else EngineStats()))

    def _embed(self) -> None:
        embedder = self.model.embedder
        if not embedder.has_work:
            return
        is_streaming = self.model.engine is not None and self.model.engine.has_work
        for job in embedder.step(EMBED_TOKENS_WHILE_STREAMING if is_streaming else 4 * EMBED_TOKENS_WHILE_STREAMING):
            num_tokens = sum(len(token_ids) for token_ids in job.inputs)
            if isinstance(job, RankingJob):
                self.connection.send(m.Ranked(job.id, job.scores, num_tokens))
            else:
                self.connection.send(m.Embedded(job.id, [vector.astype("<f4").tobytes() for vector in job.vectors], num_tokens))


def main() -> None:
    """Load what Start says, report, serve until the server closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the server, which lets us finish
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    if "--devices" in sys.argv:
        connection.send(m.Devices(gpus()))
        return
    inbox: queue.SimpleQueue[m.ToWorker] = queue.SimpleQueue()
    deliver: list[Callable[[m.ToWorker], None]] = [inbox.put]
    threading.Thread(target=_read, args=(connection, lambda message: deliver[0](message)), daemon=True).start()
    start = inbox.get()
    assert isinstance(start, m.Start)
    try:
        worker = Worker(connection, LoadedModel(start, lambda fraction: connection.send(m.Loading(fraction))))
    except MyLLMError as error:
        connection.send(m.LoadFailed(error.code, error.message))
        return
    deliver[0] = worker.receive
    connection.send(m.Ready(worker.model.info))
    worker.run()


def _read(connection: Connection, deliver: Callable[[m.ToWorker], None]) -> None:
    try:
        connection.receive(deliver)
    finally:
        os._exit(0)  # the server is gone; also from the middle of a decode


if __name__ == "__main__":
    main()
