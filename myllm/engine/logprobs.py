"""How likely the model itself held each token: read from a row of logits before the sampler bends it, told with the text.

A token is told in the delta that brings the last of its text, so the texts of the tokens told are the text streamed, also
where a character takes several tokens and where a stop string holds text back or swallows it. Nothing here walks the
vocabulary in Python: a token costs one pass of exp over its row, and the likeliest come from the sampler's block maxima.
"""

from __future__ import annotations

import codecs
from collections import deque
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from myllm.engine.sampler import bound_of_top, finite_peak
from myllm.engine.tokens import Int32Array
from myllm.types import Delta, SamplingParams, TokenLogprob

Float32Array = npt.NDArray[np.float32]
UNLIKELY = -9999.0  # stands for minus infinity, which JSON does not know; OpenAI's own number


class Vocabulary(Protocol):
    bos_id: int | None

    def piece(self, token_id: int) -> bytes: ...
    def label(self, token_id: int) -> bytes: ...


class Waiting(NamedTuple):
    """A token that has been picked; `before` are bytes of tokens before it that begin its first character."""

    token: TokenLogprob
    before: bytes


class Logprobs:
    """One sequence's: `read` its rows, `accept` what was picked, and `tell` it with the text it became.

    In a prompt control tokens are told with their letters, for there they were written; only the BOS in front adds nothing.
    """

    def __init__(self, vocabulary: Vocabulary, params: SamplingParams, prompt: Int32Array) -> None:
        self._vocabulary = vocabulary
        self._num_top = params.num_logprobs or 0
        self._tells_answer = params.num_logprobs is not None
        self._next: Float32Array | None = None  # [vocab] log probabilities at the place of the next token
        self._decoder = _decoder()
        self._waiting: deque[Waiting] = deque()
        self._num_shown = 0  # characters of the waiting tokens that have been shown
        self._untold = deque(prompt.tolist() if params.prompt_logprobs else ())
        self._prompt: list[TokenLogprob] = []
        self._prompt_decoder = _decoder()
        if self._untold:
            self._add_prompt_token(None)

    def read(self, rows: Float32Array) -> None:
        """[n, vocab] logits after the sequence's newest tokens, before a pick changes the last row.

        Raises EngineFault where the model computed no numbers.
        """
        for row in rows:
            if self._untold:
                self._add_prompt_token(log_softmax(row))
            elif self._tells_answer:
                self._next = log_softmax(row)

    def accept(self, token_id: int) -> None:
        """The token that was picked, and that is no end token: these are not told."""
        if self._next is not None:
            before, _ = self._decoder.getstate()
            text = self._decoder.decode(self._vocabulary.piece(token_id))
            self._waiting.append(Waiting(self._told(token_id, text, self._next), before))

    def tell(self, delta: Delta) -> Delta:
        """The delta with the tokens whose text it completes, and once with those of the prompt."""
        logprobs = self._shown(len(delta.text))
        if delta.finish is not None:
            logprobs += self._rest()
        prompt: tuple[TokenLogprob, ...] = ()
        if not self._untold and self._prompt:
            prompt, self._prompt = tuple(self._prompt), []
        return msgspec.structs.replace(delta, logprobs=tuple(logprobs), prompt_logprobs=prompt)

    def _add_prompt_token(self, logprobs: Float32Array | None) -> None:
        token_id = self._untold.popleft()
        is_hidden = not self._prompt and token_id == self._vocabulary.bos_id
        text = "" if is_hidden else self._prompt_decoder.decode(self._vocabulary.label(token_id))
        self._prompt.append(self._told(token_id, text, logprobs))

    def _told(self, token_id: int, text: str, logprobs: Float32Array | None) -> TokenLogprob:
        label = self._vocabulary.label
        if logprobs is None:
            return TokenLogprob(token_id, text, label(token_id), None)
        top = tuple((label(likely), max(float(logprobs[likely]), UNLIKELY)) for likely in likeliest(logprobs, self._num_top))
        return TokenLogprob(token_id, text, label(token_id), max(float(logprobs[token_id]), UNLIKELY), top)

    def _shown(self, num_characters: int) -> list[TokenLogprob]:
        """The tokens of which all text is shown now. One that adds no text waits for the one that it begins."""
        self._num_shown += num_characters
        num_tokens = length = told = 0
        for number, waiting in enumerate(self._waiting, 1):
            length += len(waiting.token.text)
            if length > self._num_shown:
                break
            if waiting.token.text:
                num_tokens, told = number, length
        self._num_shown -= told
        return [self._waiting.popleft().token for _ in range(num_tokens)]

    def _rest(self) -> list[TokenLogprob]:
        """What still waits at the end: tokens without a text, or what a stop string cut off, of which a part may be shown."""
        tokens: list[TokenLogprob] = []
        for token, before in self._waiting:
            if token.text:
                return [*tokens, self._cut(token, before)] if self._num_shown else []
            tokens.append(token)
        return tokens

    def _cut(self, token: TokenLogprob, before: bytes) -> TokenLogprob:
        """The token with as much of its text as was shown, and the bytes of that."""
        lengths = [len(_decoder().decode(before + token.raw[:end])) for end in range(len(token.raw) + 1)]
        end = next(end for end, length in enumerate(lengths) if length >= self._num_shown)
        end -= lengths[end] > self._num_shown  # one byte may end a broken character and be one itself
        return msgspec.structs.replace(token, text=token.text[: self._num_shown], raw=token.raw[:end])


def log_softmax(row: Float32Array) -> Float32Array:
    """[vocab] logits to log probabilities; the row stays as it is. Raises EngineFault on what are no numbers."""
    shifted: Float32Array = row - np.float32(finite_peak(row.max()))  # so that exp gives 1 at most
    shifted -= np.log(np.exp(shifted).sum())  # numpy sums pairwise: 128,000 values lose no more than a few last bits
    return shifted


def likeliest(logprobs: Float32Array, count: int) -> list[int]:
    """Ids of the `count` largest, the largest first; of equal ones the first in the vocabulary."""
    if count == 0:
        return []
    candidates = np.flatnonzero(logprobs >= bound_of_top(logprobs, count))
    order = np.argsort(-logprobs[candidates], kind="stable")
    return candidates[order[:count]].tolist()  # type: ignore[no-any-return]


def _decoder() -> codecs.IncrementalDecoder:
    """As the detokenizer's: "replace" fires only for bytes that can't be UTF-8."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
