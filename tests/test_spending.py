"""What a request reserves of its caller's tokens, and what it gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from myllm.caller import Reservation
from myllm.errors import RateLimited
from myllm.spending import SLICE, Spending


class Purse:
    """A budget that keeps book; it refuses what it does not have."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.book: list[int] = []
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def reserve(self, num_tokens: int) -> Reservation:
        if num_tokens > self.num_tokens:
            raise RateLimited("no tokens left")
        self.num_tokens -= num_tokens
        self.book.append(-num_tokens)
        self.asked.set()
        await self.go.wait()
        return Reservation(0.0, num_tokens)

    async def settle(self, reservations: Sequence[Reservation], num_used: int) -> None:
        unused = sum(reservation.num_tokens for reservation in reservations) - num_used
        self.num_tokens += unused
        self.book.append(unused)


def test_an_answer_with_a_bound_reserves_all_that_it_may_take_and_gives_the_rest_back():
    purse = Purse(1000)

    async def run() -> None:
        spending = Spending(purse, 300)
        await spending.begin(100)
        await spending.cover(399)
        await spending.settle(150)

    asyncio.run(run())

    assert purse.book == [-400, 250] and purse.num_tokens == 850


def test_an_answer_without_a_bound_reserves_slice_by_slice():
    purse = Purse(10 * SLICE)

    async def run() -> None:
        spending = Spending(purse, None)
        await spending.begin(10)
        for num_tokens in range(11, 10 + 2 * SLICE):
            await spending.cover(num_tokens)
        await spending.settle(10 + 2 * SLICE - 1)

    asyncio.run(run())

    assert purse.book == [-(10 + SLICE), -SLICE, 1]


def test_a_slice_that_is_refused_ends_the_answer_before_it_is_spent():
    purse = Purse(SLICE + 20)

    async def run() -> None:
        spending = Spending(purse, None)
        await spending.begin(10)
        try:
            await spending.cover(SLICE + 10)
        finally:
            await spending.settle(10 + SLICE)

    with pytest.raises(RateLimited):
        asyncio.run(run())
    assert purse.num_tokens == 10


def test_a_second_attempt_reserves_nothing_more_and_is_settled_once():
    purse = Purse(1000)

    async def run() -> None:
        spending = Spending(purse, 10)
        await spending.begin(5)
        await spending.begin(5)
        await spending.settle(6)
        await spending.settle(6)

    asyncio.run(run())

    assert purse.book == [-15, 9]


def test_what_a_client_that_leaves_had_asked_for_is_settled():
    purse = Purse(1000)

    async def run() -> None:
        spending = Spending(purse, 100)
        purse.go.clear()
        asking = asyncio.ensure_future(spending.begin(5))
        await purse.asked.wait()
        asking.cancel()
        purse.go.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await spending.settle(0)

    asyncio.run(run())

    assert purse.book == [-105, 105]


def test_without_a_budget_nothing_is_counted():
    async def run() -> None:
        spending = Spending(None, None)
        assert not spending.is_counted
        await spending.begin(5)
        await spending.cover(10**9)
        await spending.settle(6)

    asyncio.run(run())
