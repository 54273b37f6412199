"""`Spending`: the tokens of one request, reserved from the caller's budget before they are used, settled when it ends.

An answer with `max_tokens` reserves all that it may take. One without has no bound but the context's, and to reserve that
would lock out everybody else of the same key: it reserves SLICE tokens at a time, and a slice that the budget refuses ends
the answer with the limit's error.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from myllm.caller import Reservation, TokenBudget
from myllm.errors import RateLimited

SLICE = 1024


class Spending:
    """Of one request; without a budget it does nothing and costs nothing."""

    def __init__(self, budget: TokenBudget | None, max_tokens: int | None = None) -> None:
        self._budget = budget
        self._max_tokens = max_tokens
        self._reservations: list[Reservation] = []

    @property
    def is_counted(self) -> bool:
        return self._budget is not None

    @property
    def num_reserved(self) -> int:
        return sum(reservation.num_tokens for reservation in self._reservations)

    async def begin(self, num_prompt_tokens: int) -> None:
        """Raises RateLimited where the prompt and what may follow it do not fit. A second attempt reserves nothing more."""
        if not self._reservations:
            await self.reserve(num_prompt_tokens + (self._max_tokens or SLICE))

    async def cover(self, num_tokens: int) -> None:
        """The answer has come to so many tokens, prompt included. Raises RateLimited where it may not grow on."""
        if self._budget and num_tokens >= self.num_reserved:
            await self.reserve(SLICE)

    async def reserve(self, num_tokens: int) -> None:
        """Raises RateLimited. What a cancelled caller had asked for is waited for, so that it can be settled."""
        if self._budget is None:
            return
        asked = asyncio.ensure_future(self._budget.reserve(num_tokens))
        try:
            self._reservations.append(await asyncio.shield(asked))
        except asyncio.CancelledError:
            with suppress(RateLimited):
                self._reservations.append(await asked)
            raise

    async def settle(self, num_used: int) -> None:
        """The request has ended, however it did."""
        reservations, self._reservations = self._reservations, []
        if self._budget and reservations:
            await self._budget.settle(reservations, num_used)
