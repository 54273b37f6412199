"""Log probabilities on real models, beside those computed from nothing but the logits of one token after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine.real_engine import ask, engine_of, run

from myllm.engine.llama import LlamaContext, LlamaModel
from myllm.engine.sequence import Batch, Chunk, Sequence
from myllm.engine.tokens import Int32Array
from myllm.types import Delta, SamplingParams, Span, TokenLogprob

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
LONG = "The quick brown fox jumps over the lazy dog. Grüße, 你好 世界 😀! " * 12


def log_softmax(row: np.ndarray) -> np.ndarray:
    exact = row.astype(np.float64)
    return exact - exact.max() - math.log(np.exp(exact - exact.max()).sum())


def reference(context: LlamaContext, token_ids: list[int]) -> list[np.ndarray]:
    """The distribution after each token, from decodes of one token each."""
    context.clear()
    found = []
    for at in range(len(token_ids)):
        batch = Batch()
        batch.add(Chunk(Sequence(0, token_ids[: at + 1], 1), 0, at, 1, 1))
        context.decode(batch)
        found.append(log_softmax(context.logits(1)[0]))
    context.clear()
    return found


def tokens_of(deltas: list[Delta], id: int = 0) -> list[TokenLogprob]:
    return [token for delta in deltas if delta.id == id for token in delta.logprobs]


def text_of(deltas: list[Delta], id: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.id == id)


def test_an_answers_log_probabilities_are_those_of_the_models_logits(tiny_f32: LlamaModel):
    prompt = ask(tiny_f32, "What is the capital of France?")
    with engine_of(tiny_f32) as engine:
        engine.add(0, prompt, GREEDY.updated({"num_logprobs": 5}))
        tokens = tokens_of(run(engine))
        exact = reference(engine.context, [*prompt.tolist(), *(token.token_id for token in tokens)])  # type: ignore[arg-type]

    assert len(tokens) > 5
    for token, expected in zip(tokens, exact[len(prompt) - 1 :], strict=False):
        assert token.logprob == pytest.approx(expected.max(), abs=0.01)  # greedy: the picked one is the likeliest
        assert token.logprob == pytest.approx(expected[token.token_id], abs=0.01)
        assert [value for _, value in token.top] == pytest.approx(np.sort(expected)[:-6:-1], abs=0.01)
        assert token.top[0] == (tiny_f32.label(token.token_id), token.logprob)


def test_probabilities_of_all_tokens_add_up_to_1(tiny: LlamaModel):
    with engine_of(tiny) as engine:
        engine.add(0, ask(tiny, "Hi"), GREEDY.updated({"num_logprobs": tiny.vocab_size, "max_tokens": 3}))
        tokens = tokens_of(run(engine))

    for token in tokens:
        assert len(token.top) == tiny.vocab_size
        assert sum(math.exp(value) for _, value in token.top) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("stop", [(), ("a",), ("e t", "! ", "é"), ("。", "the")])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_texts_of_the_tokens_are_the_text_that_is_streamed(tiny: LlamaModel, temperature: float, stop: tuple[str, ...]):
    questions = ["What is the capital of France?", "Répète: é è ü 你好 😀", "Count to ten.", "Say something in Chinese: 你"]
    params = SamplingParams(temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, max_tokens=60, stop=stop, num_logprobs=1)
    with engine_of(tiny) as engine:
        for id, question in enumerate(questions):
            engine.add(id, ask(tiny, question), params.updated({"seed": id}))
        deltas = run(engine)

    for id in range(len(questions)):
        tokens = tokens_of(deltas, id)
        assert "".join(token.text for token in tokens) == text_of(deltas, id)
    assert any("\ufffd" not in token.text and not token.text.isascii() for id in range(4) for token in tokens_of(deltas, id)) or stop
    assert all(len(token.top) == 1 for id in range(4) for token in tokens_of(deltas, id))


def test_an_answer_is_the_same_with_and_without_log_probabilities(tiny: LlamaModel):
    texts = []
    for num_logprobs in (None, 5):
        with engine_of(tiny) as engine:
            engine.add(
                0, ask(tiny, "Tell me a story."), SamplingParams(seed=7, max_tokens=60, repeat_penalty=1.2, num_logprobs=num_logprobs)
            )
            texts.append(text_of(run(engine)))

    assert texts[0] == texts[1] and len(texts[0]) > 20


@pytest.mark.parametrize("model", ["tiny_f32", "mamba"])
def test_a_prompts_log_probabilities_are_those_of_a_plain_evaluation(model: str, request: pytest.FixtureRequest):
    llama: LlamaModel = request.getfixturevalue(model)
    prompt = llama.tokenize((Span(LONG),))
    with engine_of(llama) as engine:
        engine.add(0, prompt, GREEDY.updated({"prompt_logprobs": True, "num_logprobs": 2, "max_tokens": 2}))
        (found,) = [delta.prompt_logprobs for delta in run(engine) if delta.prompt_logprobs]
        exact = reference(engine.context, prompt.tolist())  # type: ignore[arg-type]

    assert [token.token_id for token in found] == prompt.tolist()
    assert "".join(token.text for token in found) == LONG
    assert found[0].logprob is None
    told, expected = zip(*((token.logprob, row[token.token_id]) for token, row in zip(found[1:], exact, strict=False)), strict=True)
    np.testing.assert_allclose(told, expected, atol=0.02)  # of values down to -30: chunks of other sizes round differently
    assert len(prompt) > 300


def test_streams_of_others_go_on_and_stay_what_they_are(tiny_f32: LlamaModel):
    prompt = tiny_f32.tokenize((Span(LONG),))
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
    with engine_of(tiny_f32) as engine:
        alone = text_of(run_one(engine, ask(tiny_f32, "Hello"), params))
        engine.cache.clear()
        engine.add(0, ask(tiny_f32, "Hello"), params)
        deltas = engine.step()
        engine.add(1, prompt, GREEDY.updated({"prompt_logprobs": True, "max_tokens": 2}))
        seq, sizes = engine.sequences[1], []
        while not seq.num_output_tokens:
            before = engine.sequences[0].num_output_tokens
            deltas += engine.step()
            sizes.append(engine.sequences[0].num_output_tokens - before)
        deltas += run(engine)

    assert len(sizes) >= len(prompt) // 32
    assert set(sizes) == {1}
    assert text_of(deltas, 0) == alone
    assert [len(delta.prompt_logprobs) for delta in deltas if delta.prompt_logprobs] == [len(prompt)]


def run_one(engine, prompt: Int32Array, params: SamplingParams) -> list[Delta]:
    engine.add(0, prompt, params)
    return run(engine)


def test_a_batch_may_ask_for_as_many_rows_as_the_context_was_made_for(tiny: LlamaModel):
    """One more and llama.cpp aborts the process; the smallest number of slots is where the most is missing."""
    with engine_of(tiny, num_slots=1, num_rows=32) as engine:
        engine.add(0, tiny.tokenize((Span(LONG),)), GREEDY.updated({"prompt_logprobs": True}))
        rows = []
        while engine.has_work:
            before = engine.sequences[0].num_prompt_rows
            engine.step()
            if 0 in engine.sequences:
                rows.append(engine.sequences[0].num_prompt_rows - before)

    assert max(rows) == 32
