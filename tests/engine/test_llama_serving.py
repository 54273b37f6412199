"""The scheduler's promises on the real library: many prompts together equal each alone, shared, put out or recurrent."""

from __future__ import annotations

import pytest
from engine.real_engine import ask, engine_of, run, run_all, run_each, texts_of

from myllm.engine.llama import LlamaModel
from myllm.types import FinishReason, SamplingParams, Span

GREEDY = SamplingParams(temperature=0.0)
# Of these the best token leads the second by 0.009 at least, all the way: no rounding of any machine turns that around.
STORIES = [f"Tell me a story about a {hero}." for hero in ("dragon", "toaster", "cow", "robot", "ship", "cat", "fox", "lion")]
CERTAIN = {
    "What is the capital of France?": "The capital of France is Paris.",
    "What is 7 + 5?": "7 + 5 = 12",
    "Count to 10.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    "Repeat after me: banana rocket violet": "banana rocket violet",
    "Repeat: 你好 世界": "你好 世界",
    "Repeat after me: hello 😀 world": "hello 😀 world",
    "What is the capital of Wobbleland?": "I am only a tiny model, so I do not know that.",
    "Please add 17 and 16.": "17 + 16 = 33",
}


def test_stories_told_together_equal_each_told_alone(tiny_f32: LlamaModel):
    prompts = [ask(tiny_f32, question) for question in STORIES]

    with engine_of(tiny_f32, num_slots=1) as engine:
        alone = run_each(engine, prompts, GREEDY)
    with engine_of(tiny_f32) as engine:
        together = run_all(engine, prompts, GREEDY)

    assert together == alone
    assert len(set(alone)) == len(STORIES) and all(len(text) > 200 for text in alone)


def test_a_seed_draws_the_same_story_in_any_company(tiny_f32: LlamaModel):
    prompts = [ask(tiny_f32, question) for question in STORIES]
    params = SamplingParams(temperature=1.5, seed=5, repeat_penalty=1.1, max_tokens=40)

    with engine_of(tiny_f32, num_slots=1) as engine:
        alone = run_each(engine, prompts, params)
    with engine_of(tiny_f32, num_slots=3) as engine:
        together = run_all(engine, prompts, params)

    assert together == alone


@pytest.mark.parametrize("kv_cache_type", ["f16", "q8_0"])
def test_certain_answers_of_the_bundled_model_come_together(tiny: LlamaModel, kv_cache_type: str):
    prompts = [ask(tiny, question) for question in CERTAIN]

    with engine_of(tiny, kv_cache_type=kv_cache_type) as engine:
        assert run_all(engine, prompts, GREEDY) == list(CERTAIN.values())


def test_those_who_are_put_out_when_cells_run_out_finish_their_story_all_the_same(tiny_f32: LlamaModel):
    prompts = [ask(tiny_f32, question) for question in STORIES]

    with engine_of(tiny_f32, num_slots=1) as engine:
        alone = run_each(engine, prompts, GREEDY)
    with engine_of(tiny_f32, num_cells=256, num_slots=8) as engine:
        together = run_all(engine, prompts, GREEDY)
        stats = engine.stats()

    assert stats.preemptions >= 3
    assert together == alone


def test_a_prefix_is_shared_with_one_who_still_runs(tiny_f32: LlamaModel):
    system = "You are a friendly storyteller who lives in a small house by the sea and likes to help everybody. " * 3
    prompts = [ask(tiny_f32, question, system=system) for question in STORIES]
    params = GREEDY.updated({"max_tokens": 60})

    with engine_of(tiny_f32, num_slots=1) as engine:
        alone = run_each(engine, prompts, params)
    with engine_of(tiny_f32) as engine:
        engine.add(0, prompts[0], params)
        deltas = [*engine.step(), *engine.step()]
        for id, prompt in enumerate(prompts[1:], start=1):
            engine.add(id, prompt, params)
        deltas += engine.step()
        cells_shared = engine.stats().cells_used
        donor_runs = 0 in engine.sequences
        deltas += run(engine)

    cached = [delta.usage.cached_tokens for delta in deltas if delta.usage]
    shared = min(len(prompt) for prompt in prompts) - 20
    assert donor_runs
    assert sorted(cached)[0] == 0 and all(count > shared for count in sorted(cached)[1:])
    assert cells_shared < 2 * len(prompts[0]) + 8 * 20  # not eight times the system prompt
    assert texts_of(deltas, len(prompts)) == alone


def test_a_conversation_goes_on_from_what_is_cached(tiny_f32: LlamaModel):
    first = ask(tiny_f32, "My name is Ana.")
    with engine_of(tiny_f32) as engine:
        answer = run_all(engine, [first], GREEDY)[0]
        turn = f"{answer}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is my name?<|eot_id|>"
        text = tiny_f32.detokenize(first.tolist()) + turn + "<|start_header_id|>assistant<|end_header_id|>\n\n"
        second = tiny_f32.tokenize((Span(text),))
        engine.add(0, second, GREEDY)
        deltas = run(engine)
        fresh = run_each(engine, [second], GREEDY)

    assert deltas[-1].usage is not None and deltas[-1].usage.cached_tokens >= len(first)
    assert texts_of(deltas, 1) == fresh
    assert "Ana" in fresh[0]


def test_a_prompt_in_chunks_says_what_the_prompt_at_once_says(tiny_f32: LlamaModel):
    prompt = ask(tiny_f32, "Repeat after me: " + "banana rocket violet " * 20)
    params = GREEDY.updated({"max_tokens": 30})

    with engine_of(tiny_f32, batch_size=7) as engine:
        in_chunks = run_all(engine, [prompt], params)
    with engine_of(tiny_f32, batch_size=2048) as engine:
        at_once = run_all(engine, [prompt], params)

    assert in_chunks == at_once


def test_a_request_that_leaves_in_the_middle_of_its_prompt_changes_nobody(tiny_f32: LlamaModel):
    prompts = [ask(tiny_f32, question) for question in STORIES[:3]]
    params = GREEDY.updated({"max_tokens": 40})

    with engine_of(tiny_f32, num_slots=1) as engine:
        alone = run_each(engine, prompts, params)
    with engine_of(tiny_f32, batch_size=16) as engine:
        for id, prompt in enumerate(prompts):
            engine.add(id, prompt, params)
        engine.add(9, ask(tiny_f32, "word " * 300), params)
        deltas = []
        for _ in range(8):
            deltas += engine.step()
        is_in_prompt = engine.sequences[9].num_output_tokens == 0 and engine.sequences[9].num_computed > 0
        engine.cancel(9)
        deltas += run(engine)

    assert is_in_prompt
    assert texts_of(deltas, 3) == alone


def test_a_sequence_fills_the_context_to_its_last_cell(tiny_f32: LlamaModel):
    prompt = ask(tiny_f32, "Write a very long story.")

    with engine_of(tiny_f32, num_cells=256) as engine:
        engine.add(0, prompt, GREEDY.updated({"ignore_eos": True}))
        last = run(engine)[-1]

    assert last.finish is FinishReason.LENGTH
    assert last.usage is not None and last.usage.total_tokens == 256


def test_more_streams_than_a_batch_has_tokens(tiny: LlamaModel):
    """llama.cpp aborted the process where batch_size was below parallel."""
    prompts = [ask(tiny, question) for question in CERTAIN]

    with engine_of(tiny, batch_size=3) as engine:
        assert run_all(engine, prompts, GREEDY) == list(CERTAIN.values())


def mamba_prompts(model: LlamaModel, count: int) -> list:
    return [model.tokenize((Span(f"{'once upon a time ' * (id + 1)}number {id}"),)) for id in range(count)]


def test_a_recurrent_model_serves_many_as_it_serves_each_alone(mamba: LlamaModel):
    prompts = mamba_prompts(mamba, 8)
    params = GREEDY.updated({"max_tokens": 30})

    with engine_of(mamba, num_slots=1) as engine:
        alone = run_each(engine, prompts, params)
    with engine_of(mamba, num_slots=4) as engine:
        together = run_all(engine, prompts, params)

    assert mamba.is_recurrent
    assert together == alone
    assert len(set(alone)) == 8


def test_a_recurrent_model_that_is_put_out_resumes(mamba: LlamaModel):
    prompts = mamba_prompts(mamba, 6)
    params = GREEDY.updated({"max_tokens": 60})

    with engine_of(mamba, num_slots=1) as engine:
        alone = run_each(engine, prompts, params)
    with engine_of(mamba, num_cells=256, num_slots=6) as engine:
        together = run_all(engine, prompts, params)
        stats = engine.stats()

    assert stats.preemptions > 0
    assert together == alone


def test_a_recurrent_model_reuses_a_whole_slot_and_never_a_part(mamba: LlamaModel):
    first, *_ = mamba_prompts(mamba, 1)
    params = GREEDY.updated({"max_tokens": 20})

    with engine_of(mamba, num_slots=2) as engine:
        engine.add(0, first, params)
        seq = engine.sequences[0]
        run(engine)
        goes_on = seq.token_ids.copy()
        differs = goes_on.copy()
        differs[-5] = 7
        engine.add(1, differs, params)
        usage_of_other = run(engine)[-1].usage
        engine.add(0, goes_on, params)
        deltas = run(engine)
        fresh = run_each(engine, [goes_on], params)

    assert usage_of_other is not None and usage_of_other.cached_tokens == 0
    assert deltas[-1].usage is not None and deltas[-1].usage.cached_tokens == len(goes_on) - 1
    assert texts_of(deltas, 1) == fresh
