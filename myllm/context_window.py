"""`Window`: how much of a model's context one request may take, and what a prompt that is longer than that loses.

Which turns of a history go first is `prompting`'s to choose. What is cut here are tokens, out of the middle of a prompt
that nothing else makes short enough, and of a text that is to be embedded; who asked is told how many.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from myllm.errors import ContextLengthExceeded
from myllm.types import Prompt, SamplingParams, Span
from myllm.worker.handle import Worker

ANSWER_SHARE = 4  # a trimmed prompt leaves at least a quarter of the window for the answer
MOST_SPECIAL = 8  # tokens that a vocabulary puts around a text, and then some


@dataclass(frozen=True)
class Fitted:
    """A prompt within the window, how long its answer may be, and how many tokens the prompt lost."""

    prompt: Prompt | list[int]
    sampling: SamplingParams
    num_cut: int = 0


@dataclass(frozen=True)
class Window:
    """size: tokens, prompt and answer together; never more than the model was loaded with."""

    worker: Worker
    size: int

    @classmethod
    def of(cls, worker: Worker, context_size: int | None) -> Window:
        whole = worker.info.context_length
        return cls(worker, min(context_size or whole, whole))

    @property
    def is_whole(self) -> bool:
        return self.size == self.worker.info.context_length

    def room(self, sampling: SamplingParams) -> int:
        """What a prompt that had to lose something may keep."""
        return self.size - min(sampling.max_tokens or self.size, self.size // ANSWER_SHARE)

    async def takes(self, prompt: Prompt, num_tokens: int) -> bool:
        """Has the prompt at most so many tokens? Asks the worker only where its length in bytes leaves that open."""
        return _num_bytes(prompt) < num_tokens or len(await self.worker.tokenize(prompt)) <= num_tokens

    async def fit(self, prompt: Prompt | list[int], sampling: SamplingParams, *, num_keep: int | None, text: str = "") -> Fitted:
        """The prompt as it is, or without the tokens that are too many: those behind the first `num_keep`, and not before `text`.

        text: one of the prompt's messages; what stands before it (the system's words, the template's) is kept. Raises
        ContextLengthExceeded as `bounded` does, where num_keep is None.
        """
        if self.is_whole and (num_keep is None or (isinstance(prompt, tuple) and _num_bytes(prompt) < self.size - MOST_SPECIAL)):
            return Fitted(prompt, sampling)
        token_ids = prompt if isinstance(prompt, list) else await self.worker.tokenize(prompt)
        num_cut = 0
        if len(token_ids) >= self.size and num_keep is not None:
            room = self.room(sampling)
            head = 0 if isinstance(prompt, list) else await self._tokens_before(prompt, text)
            keep = max(num_keep, head)
            keep = keep if keep < room else min(num_keep, room // 2)
            num_cut = len(token_ids) - room
            token_ids = token_ids[:keep] + token_ids[keep + num_cut :]
        return Fitted(token_ids if num_cut else prompt, self.bounded(sampling, len(token_ids)), num_cut)

    def bounded(self, sampling: SamplingParams, num_prompt_tokens: int) -> SamplingParams:
        """With the answer as long as is left. Raises ContextLengthExceeded; where the window is the model's, the worker does."""
        if self.is_whole:
            return sampling
        if num_prompt_tokens >= self.size:
            raise ContextLengthExceeded(
                f"prompt has {num_prompt_tokens:,} tokens, the request takes {self.size:,} with the answer; shorten it or ask for more",
                param="messages",
            )
        return replace(sampling, max_tokens=min(sampling.max_tokens or self.size, self.size - num_prompt_tokens))

    async def _tokens_before(self, prompt: Prompt, text: str) -> int:
        """How many tokens the prompt has before the last place where `text` stands; 0 where it stands nowhere."""
        at = "".join(span.text for span in prompt).rfind(text.strip()) if text.strip() else -1
        if at <= 0:
            return 0
        head, left = [], at
        for span in prompt:
            head.append(Span(span.text[:left], span.is_literal))
            left -= len(span.text)
            if left <= 0:
                break
        return len(await self.worker.tokenize(tuple(head)))


async def shortened_input(worker: Worker, text: str, num_tokens: int, *, may_cut: bool) -> str | list[int]:
    """A text to embed, or its first tokens and what the vocabulary puts around them, so many in all.

    Raises ContextLengthExceeded where it may not be cut.
    """
    if len(text.encode(errors="replace")) < num_tokens - MOST_SPECIAL:
        return text
    whole = await worker.tokenize((Span(text),))
    if len(whole) <= num_tokens:
        return text
    if not may_cut:
        raise ContextLengthExceeded(f"'input' has {len(whole):,} tokens, {num_tokens:,} are taken; split it", param="input")
    bare = await worker.tokenize((Span(text),), add_special=False)
    before = next((at for at in range(len(whole) - len(bare) + 1) if whole[at : at + len(bare)] == bare), 0)
    after = whole[before + len(bare) :]
    return whole[: max(num_tokens - len(after), 0)] + after


def _num_bytes(prompt: Prompt) -> int:
    """A token is at least one byte."""
    return sum(len(span.text.encode(errors="replace")) for span in prompt)
