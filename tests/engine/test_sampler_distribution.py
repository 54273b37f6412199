"""llama.cpp's own chain, behind our choice of candidates, against the exact distribution."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from myllm.engine.llama import SamplerChain
from myllm.engine.sampler import Sampler
from myllm.types import SamplingParams

Floats = npt.NDArray[np.float64]
OFF = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, seed=0)


def draws(params: SamplingParams, logits: npt.NDArray[np.float32], count: int) -> list[int]:
    sampler = Sampler(params, np.array([], np.int32), forbidden=(), make_chain=SamplerChain)
    return [sampler.pick(logits.copy()) for _ in range(count)]


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def exact(logits: Floats, params: SamplingParams) -> Floats:
    """The probabilities after top_k, typical_p, top_p, min_p and temperature, as their papers have them."""
    kept = np.argsort(-logits, kind="stable")
    if params.top_k:
        kept = kept[: params.top_k]
    if params.typical_p < 1:
        p = softmax(logits[kept])
        surprise = np.abs(-np.log(p) + (p * np.log(p)).sum())
        order = np.argsort(surprise, kind="stable")
        count = int(np.searchsorted(np.cumsum(p[order]), params.typical_p, side="right")) + 1
        kept = kept[order[:count]]
    if params.top_p < 1:
        kept = kept[np.argsort(-logits[kept], kind="stable")]
        count = int(np.searchsorted(np.cumsum(softmax(logits[kept])), params.top_p, side="left")) + 1
        kept = kept[:count]
    if params.min_p > 0:
        p = softmax(logits[kept])
        kept = kept[p >= params.min_p * p.max()]
    probabilities = np.zeros(len(logits))
    probabilities[kept] = softmax(logits[kept] / params.temperature)
    return probabilities


def chi_square_limit(degrees: int) -> float:
    """Exceeded by one fair sample in 100,000 (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 4.265 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "given_params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_k": 2, "temperature": 2.0},
        {"top_p": 0.8},
        {"top_p": 0.01},
        {"min_p": 0.2},
        {"typical_p": 0.7},
        {"typical_p": 0.3, "temperature": 1.5},
        {"top_k": 12, "top_p": 0.9, "min_p": 0.05, "temperature": 0.8},
        {"top_k": 9, "typical_p": 0.8, "top_p": 0.9, "min_p": 0.1, "temperature": 1.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_are_drawn_as_often_as_they_should(given_params, seed):
    """Over 3,000 tokens of which nearly all are hopeless, so that the candidates are chosen before the chain sees them."""
    logits = np.full(3_000, -40.0, np.float32)
    logits[np.arange(20) * 149] = np.random.default_rng(5).normal(0, 1.5, 20)
    params = OFF.updated({"seed": seed, **given_params})
    count = 6_000

    seen = np.bincount(draws(params, logits, count), minlength=len(logits))

    expected = exact(logits.astype(np.float64), params) * count
    assert not seen[expected == 0].any(), "drew what is ruled out"
    cells = expected >= 5
    seen_in, expected_in = seen[cells], expected[cells]
    if expected[~cells].sum() > 1:
        seen_in, expected_in = np.append(seen_in, seen[~cells].sum()), np.append(expected_in, expected[~cells].sum())
    if len(expected_in) > 1:
        assert ((seen_in - expected_in) ** 2 / expected_in).sum() < chi_square_limit(len(expected_in) - 1)


def test_the_reference_distribution_is_not_the_plain_one():
    """The test above can fail: the distributions that it tells apart are different."""
    logits = np.random.default_rng(5).normal(0, 1.5, 20)

    changed = [exact(logits, OFF.updated(given)) for given in ({"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.8}, {"typical_p": 0.7})]

    assert all(np.abs(one - softmax(logits)).max() > 0.05 for one in changed)
