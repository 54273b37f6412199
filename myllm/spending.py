"""`Spending`: the tokens of one request, reserved from the caller's budget before they are used, settled when it ends.

An answer with `max_tokens` reserves all that it may take. One without has no bound but the context's, and to reserve that
would lock out everybody else of the same key: it reserves SLICE tokens at a time, or what the minute still has, and where
nothing is left the answer ends with the limit's error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from myllm.caller import Reservation, TokenBudget
from myllm.errors import MyLLMError

SLICE = 1024
LEAD = 16  # tokens before the end of a slice at which the next one is asked for: what comes while the budget answers


class Spending:
    """Of one request; without a budget it does nothing and costs nothing. Leaving the context settles `num_used`."""

    def __init__(self, budget: TokenBudget | None) -> None:
        self.num_used = 0
        self.num_reserved = 0
        self._budget = budget
        self._reservations: list[Reservation] = []
        self._most = 0  # what the request may come to take, prompt included
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Spending:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The request has ended, however it did; settled also where the caller is cancelled while it waits."""
        await asyncio.shield(asyncio.ensure_future(self._settle()))

    @property
    def is_counted(self) -> bool:
        return self._budget is not None

    async def begin(self, num_prompt_tokens: int, max_tokens: int | None = None, room: int = 0) -> None:
        """max_tokens: what the request bounds its answer with, if it does; room: what its context has left for one.

        Raises RateLimited where the prompt and what may follow it do not fit. A second attempt reserves nothing more.
        """
        if self._reservations:
            return
        self._most = num_prompt_tokens + min(max_tokens or room, room)
        if max_tokens:
            await self._reserve(self._most, self._most)
        else:
            await self._reserve(min(num_prompt_tokens + LEAD, self._most), min(num_prompt_tokens + SLICE, self._most))

    def grow(self, num_tokens: int, on_refused: Callable[[MyLLMError], None]) -> None:
        """The answer has come to so many tokens, prompt included; what it may take next is asked for before it is needed."""
        is_near_the_end = num_tokens + LEAD > self.num_reserved
        if is_near_the_end and self.num_reserved < self._most and self._reservations and self._asking is None:
            self._asking = asyncio.ensure_future(self._reserve_more(on_refused))

    async def _reserve_more(self, on_refused: Callable[[MyLLMError], None]) -> None:
        left = self._most - self.num_reserved
        try:
            await self._reserve(min(LEAD, left), min(SLICE, left))
        except MyLLMError as error:
            on_refused(error)
        finally:
            self._asking = None

    async def _reserve(self, at_least: int, at_most: int) -> None:
        """Raises RateLimited. What a cancelled caller had asked for is waited for, so that it can be settled."""
        if self._budget is None:
            return
        asked = asyncio.ensure_future(self._budget.reserve(at_least, at_most))
        try:
            self._hold(await asyncio.shield(asked))
        except asyncio.CancelledError:
            with suppress(MyLLMError):
                self._hold(await asked)
            raise

    def _hold(self, reservation: Reservation) -> None:
        self._reservations.append(reservation)
        self.num_reserved += reservation.num_tokens

    async def _settle(self) -> None:
        if self._asking is not None:
            await asyncio.wait((self._asking,))
        reservations, self._reservations = self._reservations, []
        if self._budget and reservations:
            await self._budget.settle(reservations, self.num_used)
