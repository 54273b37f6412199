"""The wire: every message survives it, however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from myllm.config import EngineOptions
from myllm.types import GPU, Delta, EngineStats, FinishReason, LoadPlan, ModelInfo, SamplingParams, Span, TokenLogprob, Usage
from myllm.worker import messages as m

INFO = ModelInfo(
    context_length=2048, num_cells=4096, parallel=4, vocab_size=10, embedding_length=8, bos_token="<s>", eos_token="</s>",
    control_tokens=("<s>",), chat_template=None, can_generate=True, is_recurrent=False, load_ms=3, mapped_bytes=7,
    device_bytes={"CUDA0": 9},
)  # fmt: skip
PLAN = LoadPlan(context_length=2048, num_cells=4096, num_slots=4, gpu_layers=0)
TOKENS = (TokenLogprob(7, "", b"\xc3", None), TokenLogprob(8, "é", b"\xa9", -0.25, ((b"\xa9", -0.25), (b"\xff", -9999.0))))
TO_WORKER = [
    m.Start("tiny", "/models/tiny.gguf", EngineOptions(threads=3), PLAN),
    m.Generate(1, SamplingParams(stop=("x",), logit_bias={5: -1.5}, seed=-3), (Span("a"), Span("<s>", is_literal=True))),
    m.Generate(2, SamplingParams(num_logprobs=3, prompt_logprobs=True), token_ids=[1, 2]),
    m.Generate(7, SamplingParams(), (Span("def f("),), suffix=""),
    m.Cancel(1),
    m.Embed(3, ["text", [1, 2]]),
    m.Rank(8, "query", ["a", "b"]),
    m.Tokenize(4, (Span("x"),), True),
    m.Detokenize(5, [1]),
    m.Ping(6),
]
FROM_WORKER = [
    m.Loading(0.5),
    m.Ready(INFO),
    m.LoadFailed("model_load_failed", "no"),
    m.Accepted(1, 9),
    m.Refused(1, "invalid_request", "no", "prompt"),
    m.Stepped([Delta(1, "é"), Delta(2, "", FinishReason.STOP, Usage(1, 2, 3), ("engine_fault", "NaN"))], EngineStats(running=1)),
    m.Stepped([Delta(1, "é", None, None, None, TOKENS, TOKENS)], EngineStats()),
    m.Embedded(3, [b"\0\0\0\0"], 4),
    m.Ranked(8, [0.5, -7.25], 12),
    m.Tokenized(4, [1]),
    m.Detokenized(5, "x"),
    m.Pong(6, EngineStats()),
    m.Devices([GPU("CUDA0", 1, 2)]),
]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_a_message_to_the_worker_survives(message: m.ToWorker) -> None:
    (frame,) = m.FrameBuffer().feed(m.encode(message))

    assert m.decode_to_worker(frame) == message


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_a_message_from_the_worker_survives(message: m.FromWorker) -> None:
    (frame,) = m.FrameBuffer().feed(m.encode(message))

    assert m.decode_from_worker(frame) == message


@given(st.lists(st.sampled_from(TO_WORKER), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_frames_are_found_in_any_split_of_the_bytes(sent: list[m.ToWorker], sizes: list[int]) -> None:
    data = b"".join(m.encode(message) for message in sent)
    buffer, received, at = m.FrameBuffer(), [], 0

    for number in range(len(data) + 1):
        size = sizes[number % len(sizes)]
        received += [m.decode_to_worker(frame) for frame in buffer.feed(data[at : at + size])]
        at += size

    assert received == sent


def test_a_length_that_no_message_has_is_refused() -> None:
    with pytest.raises(ValueError, match="4,294,967,295"):
        list(m.FrameBuffer().feed(b"\xff\xff\xff\xff"))
