"""Prompts that are put together from tokens: which ones a vocabulary has for that, and a gap in a text that is to be filled.

Nothing here knows llama.cpp. Source of the order: format_prompt_infill in llama-server's server-common.cpp; the parts of it
that speak of other files of a repository have no counterpart here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from myllm.engine.tokens import Int32Array
from myllm.types import Prompt, Span


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that mean something to a model, None where its vocabulary has none, and which of them it wants around a text.

    fill_in: what stands before the text in front of a gap, before the text behind it, and before what fills it.
    """

    bos: int | None = None
    eos: int | None = None
    sep: int | None = None
    fill_in: tuple[int, int, int] | None = None
    adds_bos: bool = False
    adds_eos: bool = False
    adds_sep: bool = False

    @property
    def before(self) -> list[int]:
        return [self.bos] if self.adds_bos and self.bos is not None else []

    @property
    def after(self) -> list[int]:
        return [self.eos] if self.adds_eos and self.eos is not None else []


class Tokenizer(Protocol):
    special: SpecialTokens

    @property
    def rank_template(self) -> str | None: ...
    def tokenize(self, prompt: Prompt, *, add_special: bool = True) -> Int32Array: ...
    def holds_control_tokens(self, text: str) -> bool: ...


def literal(tokenizer: Tokenizer, text: str) -> Int32Array:
    """The text's own tokens: nothing around them, and control tokens in it are letters."""
    return tokenizer.tokenize((Span(text, is_literal=True),), add_special=False)


def fill_in(special: SpecialTokens, prefix: Int32Array, suffix: Int32Array) -> Int32Array:
    """BOS, prefix, suffix and the end of the prompt: the model goes on with what stands between the two.

    A BOS that the prefix begins with already is not put twice.
    """
    assert special.fill_in is not None
    pre, suf, mid = special.fill_in
    if len(prefix) and prefix[:1].tolist() == special.before:
        prefix = prefix[1:]
    return joined([*special.before, pre], prefix, [suf], suffix, [mid])


def joined(*parts: Int32Array | list[int]) -> Int32Array:
    """All of them, one after the other."""
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
