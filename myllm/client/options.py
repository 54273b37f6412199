"""The options that requests take by keyword, as types: an editor completes them, a type checker knows them.

Their ranges and defaults are the server's; see docs/http.md. None is as if it had not been given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

Think = bool | Literal["low", "medium", "high"]


class Options(TypedDict, total=False):
    """How an answer is made.

    temperature: 0 always picks the likeliest token, up to 2. top_k: only the k likeliest; 0 is off. top_p: only the likeliest
    that together reach this share; 1 is off. min_p: only those with at least this share of the likeliest one's probability.
    typical_p: locally typical sampling; 1 is off. max_tokens: the longest answer. stop: ends the answer before it. seed: the
    same draws the same text. repeat_penalty (1 is off), frequency_penalty and presence_penalty (0 is off) look at the last
    `penalty_last_n` tokens, -1 for all. logit_bias: token id → what is added to its logit. ignore_eos: never end by the model's
    own will. keep_alive: how long the model stays loaded afterwards: seconds or "5m"; 0 unloads it, -1 keeps it for ever.
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    repeat_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    penalty_last_n: int | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool | None
    keep_alive: str | float | None


class ChatOptions(Options, total=False):
    """Options of a chat. think: whether the model shall think before it answers, or how hard; off unless asked for."""

    think: Think | None


class LoadOptions(TypedDict, total=False):
    """How a model is loaded; what is left out is the server's setting.

    context_size: tokens of KV cache that all requests share; 0 is the model's own. parallel: most requests at once; 0 as the
    context allows. gpu_layers: -1 is all that fit. kv_cache_type: "f16", "q8_0", … keep_alive: as in Options. pin: neither
    unload it when idle nor for another model.
    """

    context_size: int | None
    parallel: int | None
    gpu_layers: int | None
    kv_cache_type: str | None
    keep_alive: str | float | None
    pin: bool | None
