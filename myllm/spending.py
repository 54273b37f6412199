"""`Spending`: the tokens of one request, reserved from the caller's budget before they are used, settled when it ends.

An answer with `max_tokens` reserves all that it may take. One without has no bound but the context's, and to reserve that
would lock out everybody else of the same key: it reserves SLICE tokens at a time, and a slice that the budget refuses ends
the answer with the limit's error.
"""

from __future__ import annotations

from myllm.caller import TokenBudget
from myllm.types import Usage

SLICE = 1024


class Spending:
    """Of one generation; without a budget it does nothing and costs nothing."""

    def __init__(self, budget: TokenBudget | None, max_tokens: int | None) -> None:
        self._budget = budget
        self._max_tokens = max_tokens
        self._num_reserved = 0

    @property
    def is_counted(self) -> bool:
        return self._budget is not None

    async def begin(self, num_prompt_tokens: int) -> None:
        """Raises RateLimited where the prompt and what may follow it do not fit. A second attempt reserves nothing more."""
        if self._budget and not self._num_reserved:
            await self._reserve(num_prompt_tokens + (self._max_tokens or SLICE))

    async def cover(self, num_tokens: int) -> None:
        """The answer has come to so many tokens, prompt included. Raises RateLimited where it may not grow on."""
        if self._budget and num_tokens >= self._num_reserved:
            await self._reserve(SLICE)

    async def settle(self, usage: Usage) -> None:
        """The request has ended, however it did."""
        reserved, self._num_reserved = self._num_reserved, 0
        if self._budget and reserved:
            await self._budget.settle(reserved, usage.total_tokens)

    async def _reserve(self, num_tokens: int) -> None:
        assert self._budget is not None
        await self._budget.reserve(num_tokens)
        self._num_reserved += num_tokens
