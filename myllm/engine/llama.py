"""The one door to llama.cpp: its model, its contexts and its sampler chains, as Python objects that own their memory.

Only this file imports `llama_cpp`, and only here do llama.cpp's own words stand (n_seq_max, ubatch, eog). Above it there
are slots, cells and batches. Every function that can fail turns a code or a null pointer into an error of `myllm.errors`.
Pointers into logits stay valid until the next decode of the same context.
Source: llama.h of the llama.cpp that llama-cpp-python 0.3 bundles.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C
import numpy as np
import numpy.typing as npt
from llama_cpp._ggml import libggml

from myllm.config import EngineOptions
from myllm.engine.llama_log import LlamaLog
from myllm.engine.prompts import SpecialTokens
from myllm.engine.sequence import Batch
from myllm.engine.tokens import Int32Array
from myllm.errors import EngineFault, InsufficientMemory, ModelLoadFailed
from myllm.types import GPU, Prompt, SamplingParams, Span

MAX_SLOTS = 256  # LLAMA_MAX_SEQ
Float32Array = npt.NDArray[np.float32]
TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data

GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}  # (mmap, mlock)


class KVCacheFull(Exception):
    """llama_decode found no cells for the batch; the memory is unchanged."""


llama_log = LlamaLog()
_log_callback = C.llama_log_callback(llama_log.hear)  # llama.cpp keeps the pointer, so we keep the object


def gpus() -> list[GPU]:
    """The GPUs that this build of llama.cpp can use, with what each has free now; none in a build for CPUs."""
    ggml = libggml
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype, ggml.ggml_backend_dev_get.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    ggml.ggml_backend_dev_name.restype, ggml.ggml_backend_dev_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    found = []
    for device in map(ggml.ggml_backend_dev_get, range(ggml.ggml_backend_dev_count())):
        if ggml.ggml_backend_dev_type(device) in (1, 2):  # GPU and IGPU; 0 is the CPU
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            found.append(GPU(ggml.ggml_backend_dev_name(device).decode(errors="replace"), free.value, total.value))
    return found


class LlamaModel:
    """Weights and vocabulary of one GGUF file. Tokenising is thread-safe; everything else belongs to one thread."""

    def __init__(self, path: Path, options: EngineOptions, on_progress: Callable[[float], None], *, gpu_layers: int = -1) -> None:
        """Load the file; on_progress gets 0.0..1.0, gpu_layers -1 is all. Raises ModelLoadFailed with llama.cpp's reason."""
        C.llama_log_set(_log_callback, None)
        C.llama_backend_init()
        llama_log.forget_errors()
        self.path = path
        params = C.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.main_gpu = options.main_gpu
        params.load_mode = LOAD_MODES[options.mmap, options.mlock]
        if options.tensor_split:
            count = C.llama_max_devices()
            params.tensor_split = (ctypes.c_float * count)(*options.tensor_split[:count])

        def report(fraction: float, _user_data: Any) -> bool:
            on_progress(fraction)
            return True

        params.progress_callback = C.llama_progress_callback(report)
        model = C.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ModelLoadFailed(f"llama.cpp cannot load '{path.name}': {llama_log.reason()}")
        self.pointer = model
        self.vocab = C.llama_model_get_vocab(model)
        if C.llama_vocab_type(self.vocab) == C.LLAMA_VOCAB_TYPE_NONE:
            raise ModelLoadFailed(f"'{path.name}' holds no vocabulary, so it cannot turn text into tokens")
        self.vocab_size: int = C.llama_vocab_n_tokens(self.vocab)
        self.embedding_length: int = C.llama_model_n_embd_out(model)
        self.trained_context: int = C.llama_model_n_ctx_train(model)
        self.is_recurrent: bool = C.llama_model_is_recurrent(model) or C.llama_model_is_hybrid(model)
        self.can_generate: bool = C.llama_model_has_decoder(model) and not C.llama_model_has_encoder(model)
        self.can_rank = self._metadata(f"{self._metadata('general.architecture')}.pooling_type") == str(C.LLAMA_POOLING_TYPE_RANK)
        self.special = self._special_tokens()
        self.bos_id = self.special.bos
        self.bos_token = self._text(C.llama_vocab_bos(self.vocab))
        self.eos_token = self._text(C.llama_vocab_eos(self.vocab))
        attributes = [C.llama_vocab_get_attr(self.vocab, i) for i in range(self.vocab_size)]
        self._control_ids = [i for i, attr in enumerate(attributes) if attr & C.LLAMA_TOKEN_ATTR_CONTROL]
        self.control_tokens = tuple(map(self._text, self._control_ids))
        self.end_tokens = frozenset(i for i in range(self.vocab_size) if C.llama_vocab_is_eog(self.vocab, i))
        self.suppressed_tokens = self._suppressed_tokens()
        self._pieces: list[bytes | None] = [None] * self.vocab_size

    @property
    def chat_template(self) -> str | None:
        return self._template(None)

    @property
    def rank_template(self) -> str | None:
        """How a model that ranks wants to read a query and a document, with a place for each; None: plainly."""
        return self._template(b"rerank")

    def tokenize(self, prompt: Prompt, *, add_special: bool = True) -> Int32Array:
        """Token ids of a prompt; where it is one non-literal span, exactly llama.cpp's for that text.

        A text that already begins with the BOS token does not get a second one.
        """
        spans = list(prompt) or [Span("")]
        if add_special and self.special.adds_bos and self.bos_token and not spans[0].is_literal:
            spans[0] = Span(spans[0].text.removeprefix(self.bos_token))
        if len(spans) == 1:
            return self._tokenize(spans[0].text, add_special, not spans[0].is_literal)
        parts = [self._tokenize(span.text, False, not span.is_literal) for span in spans]
        before, after = (self.special.before, self.special.after) if add_special else ([], [])
        return np.concatenate([np.array(before, dtype=np.int32), *parts, np.array(after, dtype=np.int32)])

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token stands for; control tokens stand for none."""
        piece = self._pieces[token_id]
        if piece is None:
            piece = self._pieces[token_id] = self._piece(token_id, special=False)
        return piece

    def label(self, token_id: int) -> bytes:
        """The token's own bytes; of a control token its letters."""
        return self.piece(token_id) or self._piece(token_id, special=True)

    def holds_control_tokens(self, text: str) -> bool:
        """Would llama.cpp read some of this text as control tokens?"""
        return bool(np.isin(self._tokenize(text, False, True), self._control_ids).any())

    def detokenize(self, token_ids: list[int]) -> str:
        """The text of the tokens, control tokens included, as llama.cpp's tokenizer would read it back."""
        return b"".join(self._piece(token_id, special=True) for token_id in token_ids).decode(errors="replace")

    def close(self) -> None:
        C.llama_model_free(self.pointer)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> Int32Array:
        data = text.encode("utf-8", errors="replace")
        capacity = len(data) + 8
        while True:
            tokens = np.empty(capacity, dtype=np.int32)
            pointer = tokens.ctypes.data_as(ctypes.POINTER(C.llama_token))
            count = C.llama_tokenize(self.vocab, data, len(data), pointer, capacity, add_special, parse_special)
            if count >= 0:
                return tokens[:count].copy()
            capacity = -count

    def _piece(self, token_id: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = C.llama_token_to_piece(self.vocab, token_id, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _text(self, token_id: int) -> str:
        if token_id < 0:
            return ""
        text = C.llama_vocab_get_text(self.vocab, token_id)
        return text.decode(errors="replace") if text else ""

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        found = C.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer)) >= 0
        return buffer.value.decode(errors="replace") if found else None

    def _template(self, name: bytes | None) -> str | None:
        template = C.llama_model_chat_template(self.pointer, name)
        return template.decode(errors="replace") if template else None

    def _special_tokens(self) -> SpecialTokens:
        bos, eos, sep = (of(self.vocab) for of in (C.llama_vocab_bos, C.llama_vocab_eos, C.llama_vocab_sep))
        pre, suf, mid = (of(self.vocab) for of in (C.llama_vocab_fim_pre, C.llama_vocab_fim_suf, C.llama_vocab_fim_mid))
        return SpecialTokens(
            bos=bos if bos >= 0 else None,
            eos=eos if eos >= 0 else None,
            sep=sep if sep >= 0 else None,
            fill_in=(pre, suf, mid) if min(pre, suf, mid) >= 0 else None,
            adds_bos=C.llama_vocab_get_add_bos(self.vocab),
            adds_eos=C.llama_vocab_get_add_eos(self.vocab),
            adds_sep=C.llama_vocab_get_add_sep(self.vocab),
        )

    def _suppressed_tokens(self) -> tuple[int, ...]:
        count = ctypes.c_int32(0)
        tokens = C.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        return tuple(tokens[i] for i in range(count.value))


class LlamaContext:
    """A KV cache and the buffers to compute with; implements kv_cache.Memory.

    One batch buffer for its whole life: numpy views over the arrays that llama_batch points to, filled by slices.
    """

    def __init__(self, model: LlamaModel, params: C.llama_context_params) -> None:
        """Raises InsufficientMemory where llama.cpp cannot allocate, with its reason."""
        llama_log.forget_errors()
        context = C.llama_init_from_model(model.pointer, params)
        if not context:
            raise InsufficientMemory(
                f"no context of {params.n_ctx:,} cells for '{model.path.name}': {llama_log.reason()}; "
                "load with a smaller context_size or parallel, or another kv_cache_type"
            )
        self.model = model
        self.pointer = context
        self.memory = C.llama_get_memory(context)
        self.num_cells: int = C.llama_n_ctx(context)
        self.batch_tokens: int = C.llama_n_batch(context)
        self.max_rows: int = params.n_outputs_max or self.batch_tokens
        self._make_batch(self.batch_tokens)

    @classmethod
    def for_generation(
        cls, model: LlamaModel, options: EngineOptions, *, num_cells: int, num_slots: int, num_rows: int, threads: int
    ) -> LlamaContext:
        """Unified cells, so that sharing a prefix copies metadata only; logits for `num_rows` tokens a batch."""
        params = _context_params(options, threads)
        params.n_ctx = num_cells
        params.n_batch = min(options.batch_size, num_cells)
        params.n_ubatch = min(options.ubatch_size, params.n_batch)
        params.n_seq_max = num_slots
        params.n_outputs_max = num_rows  # llama.cpp aborts on less than a row a slot, also where a batch has fewer tokens
        params.type_k = params.type_v = GGML_TYPES[options.kv_cache_type]
        return cls(model, params)

    @classmethod
    def for_embeddings(cls, model: LlamaModel, options: EngineOptions, *, num_tokens: int, num_slots: int, threads: int) -> LlamaContext:
        """One decode takes up to `num_tokens` of many inputs; a model without a pooling of its own gets the mean."""
        params = _context_params(options, threads)
        params.n_ctx = params.n_batch = params.n_ubatch = num_tokens
        params.n_seq_max = num_slots
        params.embeddings = True
        context = cls(model, params)
        if C.llama_pooling_type(context.pointer) != C.LLAMA_POOLING_TYPE_NONE:
            return context
        context.close()
        params.pooling_type = C.LLAMA_POOLING_TYPE_MEAN
        return cls(model, params)

    def copy(self, source: int, target: int, length: int) -> None:
        C.llama_memory_seq_cp(self.memory, source, target, 0, length)

    def truncate(self, slot: int, length: int) -> bool:
        return bool(C.llama_memory_seq_rm(self.memory, slot, length, -1))

    def set_threads(self, threads: int) -> None:
        C.llama_set_n_threads(self.pointer, threads, threads)

    def clear(self) -> None:
        if self.memory:
            C.llama_memory_clear(self.memory, False)

    def decode(self, batch: Batch) -> None:
        """Run one forward pass; logits stay valid until the next call.

        batch: 1..batch_tokens tokens; positions contiguous per slot, from `start_pos`.
        Raises KVCacheFull (code 1, memory unchanged) or EngineFault (state unknown, the worker must exit).
        """
        at = 0
        for chunk in batch:
            end = at + chunk.num_tokens
            self._tokens[at:end] = chunk.token_ids
            self._positions[at:end] = self._counting[chunk.start_pos : chunk.start_pos + chunk.num_tokens]
            self._slots[at:end] = chunk.slot
            self._wants_output[at:end] = 0
            self._wants_output[end - chunk.num_rows : end] = 1
            at = end
        self._run(at)

    def embed(self, inputs: list[Int32Array]) -> list[Float32Array]:
        """One pooled vector an input, not normalised, or its scores where the model ranks; batch_tokens tokens at most."""
        at = 0
        for slot, token_ids in enumerate(inputs):
            end = at + len(token_ids)
            self._tokens[at:end] = token_ids
            self._positions[at:end] = self._counting[: len(token_ids)]
            self._slots[at:end] = slot
            self._wants_output[at:end] = 1
            at = end
        self.clear()
        self._run(at)
        size = C.llama_model_n_cls_out(self.model.pointer) if self.model.can_rank else self.model.embedding_length
        rows = [C.llama_get_embeddings_seq(self.pointer, slot) for slot in range(len(inputs))]
        return [np.ctypeslib.as_array(row, shape=(size,)).copy() for row in rows]

    def logits(self, num_rows: int) -> Float32Array:
        """[num_rows, vocab] of the last decode, in batch order; llama.cpp's own memory, free to be changed in place."""
        return np.ctypeslib.as_array(C.llama_get_logits(self.pointer), shape=(num_rows, self.model.vocab_size))

    def close(self) -> None:
        C.llama_free(self.pointer)

    def _make_batch(self, size: int) -> None:
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._slots = np.zeros(size, dtype=np.int32)
        self._wants_output = np.zeros(size, dtype=np.int8)
        self._ones = np.ones(size, dtype=np.int32)
        self._counting = np.arange(max(self.num_cells, size) + 1, dtype=np.int32)
        # seq_id is an array of pointers, one a token; each points at its own element of _slots, once and for all
        base = self._slots.ctypes.data
        self._slot_pointers = np.arange(base, base + 4 * size, 4, dtype=np.uintp)
        self._batch = C.llama_batch(
            n_tokens=0,
            token=_as(self._tokens, C.llama_token),
            embd=None,
            pos=_as(self._positions, C.llama_pos),
            n_seq_id=_as(self._ones, ctypes.c_int32),
            seq_id=ctypes.cast(self._slot_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            logits=_as(self._wants_output, ctypes.c_int8),
        )

    def _run(self, num_tokens: int) -> None:
        llama_log.forget_errors()
        self._batch.n_tokens = num_tokens
        code = C.llama_decode(self.pointer, self._batch)
        if code == 1:
            raise KVCacheFull
        if code != 0:
            raise EngineFault(f"llama_decode failed with code {code} on {num_tokens} tokens: {llama_log.reason()}")


class SamplerChain:
    """llama.cpp's samplers for one sequence, over the few candidates that are worth looking at."""

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self.pointer = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for sampler in (
            C.llama_sampler_init_top_k(params.top_k),
            C.llama_sampler_init_typical(params.typical_p, 1),
            C.llama_sampler_init_top_p(params.top_p, 1),
            C.llama_sampler_init_min_p(params.min_p, 1),
            C.llama_sampler_init_temp(params.temperature),
            C.llama_sampler_init_dist(seed),
        ):
            C.llama_sampler_chain_add(self.pointer, sampler)

    def pick(self, token_ids: Int32Array, logits: Float32Array) -> int:
        """Filter, scale and draw one of `token_ids`."""
        candidates = np.empty(len(token_ids), dtype=TOKEN_DATA)
        candidates["id"], candidates["logit"], candidates["p"] = token_ids, logits, 0.0
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        C.llama_sampler_apply(self.pointer, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def __del__(self) -> None:
        C.llama_sampler_free(self.pointer)


def quantize_model(source: Path, target: Path, file_type: str, threads: int, on_log: Callable[[int, bytes, Any], None]) -> None:
    """Write a model anew, in one file, with weights of this type; on_log hears llama.cpp meanwhile. Raises ModelLoadFailed."""
    callback = C.llama_log_callback(on_log)
    C.llama_log_set(callback, None)
    params = C.llama_model_quantize_default_params()
    params.ftype = C.LLAMA_FTYPE_ALL_F32 if file_type == "F32" else getattr(C, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    params.nthread, params.max_buf_size = threads, 1 << 30
    failed = C.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    C.llama_log_set(_log_callback, None)
    if failed:
        raise ModelLoadFailed(f"llama.cpp cannot quantise '{source.name}': {llama_log.reason()}")


def _context_params(options: EngineOptions, threads: int) -> Any:
    params = C.llama_context_default_params()
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.kv_unified = True
    params.swa_full = True  # a sliding window that forgets cannot give a prefix back
    params.no_perf = True
    return params


def _as(array: npt.NDArray[Any], ctype: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctype))
