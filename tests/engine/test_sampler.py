"""Penalties, bias and candidates against plain NumPy in double precision, and llama.cpp's own chain against the exact distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from engine.instructions import count_instructions
from hypothesis import given, settings, strategies as st

from myllm.engine.llama import SamplerChain
from myllm.engine.sampler import Sampler
from myllm.engine.tokens import Int32Array
from myllm.errors import EngineFault
from myllm.types import SamplingParams

Floats = npt.NDArray[np.float64]
PROFILE = settings(derandomize=True, deadline=None, max_examples=200)
OFF = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, seed=0)
GREEDY = SamplingParams(temperature=0.0)


@dataclass
class Recorder:
    """A chain that notes its candidates and picks the best of them."""

    ids: list[int] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)

    def pick(self, token_ids: Int32Array, logits: npt.NDArray[np.float32]) -> int:
        self.ids, self.logits = token_ids.tolist(), logits.tolist()
        return int(token_ids[logits.argmax()])


def make(params: SamplingParams, *, history: tuple[int, ...] = (), forbidden: tuple[int, ...] = (), chain=SamplerChain) -> Sampler:
    return Sampler(params, np.array(history, np.int32), forbidden=forbidden, make_chain=chain)


def with_recorder(params: SamplingParams, **kwargs) -> tuple[Sampler, Recorder]:
    recorder = Recorder()
    return make(params, chain=lambda params, seed: recorder, **kwargs), recorder


def row(*logits: float) -> npt.NDArray[np.float32]:
    return np.array(logits, np.float32)


def draws(params: SamplingParams, logits: npt.NDArray[np.float32], count: int) -> list[int]:
    sampler = make(params)
    return [sampler.pick(logits.copy()) for _ in range(count)]


def penalised(logits: Floats, history: list[int], params: SamplingParams) -> Floats:
    """llama.cpp's penalties sampler, one token of the vocabulary after the other."""
    window = history if params.penalty_last_n < 0 else history[max(0, len(history) - params.penalty_last_n) :]
    result = logits.copy()
    for token_id in range(len(logits)):
        count = window.count(token_id)
        if not count:
            continue
        if result[token_id] <= 0:
            result[token_id] *= params.repeat_penalty
        else:
            result[token_id] /= params.repeat_penalty
        result[token_id] -= count * params.frequency_penalty + params.presence_penalty
    return result


@PROFILE
@given(
    prompt=st.lists(st.integers(0, 9), max_size=20),
    answer=st.lists(st.integers(0, 9), max_size=20),
    logits=st.lists(st.floats(-20, 20, width=32), min_size=10, max_size=10),
    repeat=st.sampled_from([1.0, 1.1, 1.5, 0.7, 3.0]),
    frequency=st.sampled_from([0.0, 0.3, -1.0, 2.0]),
    presence=st.sampled_from([0.0, 0.5, -2.0]),
    last_n=st.sampled_from([-1, 0, 1, 3, 64]),
)
def test_penalties_are_those_of_llama_cpp(prompt, answer, logits, repeat, frequency, presence, last_n):
    params = SamplingParams(
        temperature=0.0, repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence, penalty_last_n=last_n
    )
    sampler = make(params, history=tuple(prompt))
    for token_id in answer:
        sampler.accept(token_id)
    seen = row(*logits)

    sampler.pick(seen)

    np.testing.assert_allclose(seen, penalised(np.array(logits, np.float64), prompt + answer, params), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last_n", [1, 2, 64, -1])
def test_a_token_that_left_the_window_is_free_again(last_n):
    sampler = make(SamplingParams(temperature=0.0, presence_penalty=2.0, penalty_last_n=last_n), history=(0,))

    picked_at_once = sampler.pick(row(5.0, 4.0, 1.0))
    sampler.accept(2)
    sampler.accept(2)
    picked_later = sampler.pick(row(5.0, 4.0, 1.0))

    assert picked_at_once == 1
    assert picked_later == (0 if last_n in (1, 2) else 1)


@pytest.mark.parametrize("repeat_penalty", [0.0, 1e-40])
def test_a_repeat_penalty_of_nothing_is_a_strong_wish_to_repeat_and_no_fault(repeat_penalty):
    """Dividing by it made infinities, and forbidden tokens NaN: the model was said to be damaged."""
    sampler = make(SamplingParams(temperature=0.8, repeat_penalty=repeat_penalty), history=(1, 2, 3), forbidden=(3,))

    picked = sampler.pick(row(5.0, 1.0, -3.0, 2.0))

    assert picked == 1


@pytest.mark.parametrize("last_n", [-1, 100_000])
def test_a_long_history_costs_no_python_for_each_of_its_tokens(last_n):
    params = SamplingParams(temperature=0.0, frequency_penalty=0.5, penalty_last_n=last_n)
    history = np.arange(50_000, dtype=np.int32) % 100

    cost = count_instructions(lambda: Sampler(params, history, forbidden=(), make_chain=SamplerChain))

    assert 0 < cost < 1_000


def test_a_long_history_is_counted_right():
    sampler = make(SamplingParams(temperature=0.0, frequency_penalty=0.5, penalty_last_n=-1), history=(0, 1, 1, 2) * 1000)
    sampler.accept(0)
    seen = row(0.0, 0.0, 0.0, 0.0)

    sampler.pick(seen)

    assert seen.tolist() == [-500.5, -1000.0, -500.0, 0.0]


def test_a_bias_of_100_decides():
    assert make(SamplingParams(temperature=0.0, logit_bias={2: 100.0})).pick(row(5.0, 4.0, -9.0)) == 2
    assert set(draws(SamplingParams(temperature=2.0, logit_bias={2: 100.0}, seed=1), row(5.0, 4.0, -9.0), 50)) == {2}


def test_a_bias_of_minus_100_forbids():
    assert make(SamplingParams(temperature=0.0, logit_bias={0: -100.0})).pick(row(5.0, 4.0, -9.0)) == 1
    assert 0 not in draws(SamplingParams(temperature=2.0, logit_bias={0: -100.0}, seed=1), row(5.0, 4.0, -9.0), 200)


def test_a_bias_shifts_the_odds_by_its_size():
    params = OFF.updated({"logit_bias": {0: math.log(3)}})

    picked = draws(params, row(0.0, 0.0), 4000)

    assert picked.count(0) / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_forbidden_token_is_never_picked(temperature):
    sampler = make(SamplingParams(temperature=temperature, seed=1), forbidden=(0,))

    assert all(sampler.pick(row(50.0, 4.0, 3.0)) != 0 for _ in range(100))


def test_a_bias_does_not_free_a_forbidden_token():
    """A bias on the end token replaced the ban on it, so that `ignore_eos` did nothing."""
    sampler = make(SamplingParams(temperature=0.0, logit_bias={0: 5.0}), forbidden=(0,))

    assert sampler.pick(row(5.0, 4.0)) == 1


@PROFILE
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.integers(0, 50))
def test_temperature_0_is_argmax_whatever_else_is_asked_for(logits, top_k):
    params = SamplingParams(temperature=0.0, top_k=top_k, top_p=0.1, min_p=0.9, typical_p=0.2, seed=3)

    assert make(params).pick(row(*logits)) == int(np.argmax(row(*logits)))


def test_top_k_1_is_argmax_at_any_temperature():
    assert set(draws(SamplingParams(temperature=2.0, top_k=1), row(1.0, 1.1, 1.0), 50)) == {1}


@pytest.mark.parametrize("temperature", [1e-5, 1e-38, 1e-45, 1e-300])
def test_a_temperature_near_0_is_argmax(temperature):
    """llama.cpp divides by it in single precision and then draws from infinities: it picked the last candidate."""
    assert set(draws(SamplingParams(temperature=temperature, top_k=0, top_p=1.0, min_p=0.0), row(1.0, 2.0, 5.0, -3.0, 4.9), 20)) == {2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits",
    [(1.0, math.nan, 2.0), (math.nan,) * 3, (1.0, math.inf, 2.0), (-math.inf,) * 3, (math.nan, math.inf, -math.inf)],
    ids=["one NaN", "all NaN", "infinity", "all minus infinity", "everything"],
)
def test_a_row_without_valid_numbers_is_a_fault(temperature, logits):
    sampler = make(SamplingParams(temperature=temperature))

    with pytest.raises(EngineFault, match="no valid probabilities"):
        sampler.pick(row(*logits))


def test_a_row_with_one_possible_token_gives_it():
    assert draws(OFF, row(-math.inf, -3.0, -math.inf), 5) == [1] * 5


def test_a_vocabulary_of_one_token():
    assert draws(OFF, row(1.0), 3) == [0] * 3


def test_top_k_larger_than_the_vocabulary_is_no_limit():
    assert set(draws(OFF.updated({"top_k": 1_000_000}), row(1.0, 1.0, 1.0), 100)) == {0, 1, 2}


def large_row(rng: np.random.Generator, size: int, kind: str) -> npt.NDArray[np.float32]:
    if kind == "normal":
        return rng.normal(0, 4, size).astype(np.float32)
    if kind == "sorted":  # the top k all in one block, the worst case for block maxima
        return np.sort(rng.normal(0, 4, size)).astype(np.float32)
    if kind == "equal":
        return np.ones(size, np.float32)
    return rng.integers(-3, 3, size).astype(np.float32)  # many ties


@pytest.mark.parametrize("kind", ["normal", "sorted", "equal", "ties"])
@pytest.mark.parametrize("size", [1, 255, 5_121, 128_256])
@pytest.mark.parametrize("top_k", [2, 5, 40, 256, 257, 1000])
def test_the_candidates_hold_the_true_top_k(kind, size, top_k):
    logits = large_row(np.random.default_rng(size + top_k), size, kind)
    sampler, recorder = with_recorder(SamplingParams(top_k=top_k, temperature=1.0))

    sampler.pick(logits.copy())

    best = np.sort(logits)[::-1][:top_k]
    best = best[best >= best[0] - 24]  # what is e^-24 as likely as the best is not drawn
    assert np.sort(recorder.logits)[::-1][: len(best)].tolist() == best.tolist()
    assert logits[recorder.ids].tolist() == recorder.logits


@PROFILE
@given(st.integers(0, 2**32), st.integers(1, 20_000), st.integers(0, 300), st.floats(0.01, 2.0), st.floats(0.1, 20))
def test_the_candidates_of_any_row_hold_what_may_be_drawn(seed, size, top_k, temperature, spread):
    logits = np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)
    sampler, recorder = with_recorder(SamplingParams(top_k=top_k, temperature=temperature))

    sampler.pick(logits.copy())

    if not recorder.ids:
        assert top_k == 1
        return
    order = np.argsort(-logits)[: top_k or size]
    scaled = logits[order].astype(np.float64) / temperature
    drawable = order[scaled >= scaled[0] - 23.9]
    assert set(drawable.tolist()) <= set(recorder.ids)


def test_of_a_large_vocabulary_the_chain_sees_few():
    logits = np.random.default_rng(1).normal(0, 4, 128_256).astype(np.float32)
    sampler, recorder = with_recorder(SamplingParams(top_k=40))

    sampler.pick(logits)

    assert 40 <= len(recorder.ids) < 200


FLAT = np.zeros(1000, np.float32)


@pytest.mark.parametrize("seed", [0, 1, -1, -(2**31), 2**32 - 1, 2**32, 2**63 - 1])
def test_the_same_seed_draws_the_same_tokens(seed):
    """llama.cpp takes the seed 0xFFFFFFFF, which -1 is, as the wish for a random one."""
    params = OFF.updated({"seed": seed})

    assert draws(params, FLAT, 20) == draws(params, FLAT, 20)


def test_other_seeds_draw_other_tokens():
    assert len({tuple(draws(OFF.updated({"seed": seed}), FLAT, 10)) for seed in range(20)}) == 20


def test_without_a_seed_every_generation_is_another():
    params = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)

    assert draws(params, FLAT, 20) != draws(params, FLAT, 20)


def test_two_samplers_with_one_seed_do_not_disturb_each_other():
    params = OFF.updated({"seed": 7})
    alone = draws(params, FLAT, 10)
    one, other = make(params), make(params)

    together = [(one.pick(FLAT.copy()), other.pick(FLAT.copy())) for _ in range(10)]

    assert together == [(token_id, token_id) for token_id in alone]
