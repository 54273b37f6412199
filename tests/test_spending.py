"""What a request reserves of its caller's tokens, and what it gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from myllm.caller import Reservation
from myllm.errors import MyLLMError, RateLimited, Unauthorized
from myllm.spending import LEAD, SLICE, Spending

ROOM = 10 * SLICE


class Purse:
    """A budget that keeps book; it refuses what it does not have."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.book: list[int] = []
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()
        self.refusal: MyLLMError = RateLimited("no tokens left")

    async def reserve(self, at_least: int, at_most: int | None = None) -> Reservation:
        self.asked.set()
        if at_least > self.num_tokens:
            await self.go.wait()
            raise self.refusal
        taken = min(at_most or at_least, self.num_tokens)
        self.num_tokens -= taken
        self.book.append(-taken)
        await self.go.wait()
        return Reservation(0.0, taken)

    async def settle(self, reservations: Sequence[Reservation], num_used: int) -> None:
        unused = sum(reservation.num_tokens for reservation in reservations) - num_used
        self.num_tokens += unused
        self.book.append(unused)


def spend(purse: Purse | None, work: Callable[[Spending], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Spending(purse) as spending:
            await work(spending)

    asyncio.run(run())


async def say(spending: Spending, begin: int, end: int) -> list[MyLLMError]:
    """The answer grows token by token; what the budget said against it."""
    refused: list[MyLLMError] = []
    for num_tokens in range(begin + 1, end + 1):
        spending.grow(num_tokens, refused.append)
        while spending._asking is not None:
            await asyncio.sleep(0)
        if refused:
            break
    spending.num_used = num_tokens
    return refused


def test_an_answer_with_a_bound_reserves_all_that_it_may_take_and_gives_the_rest_back() -> None:
    purse = Purse(1000)

    async def answer(spending: Spending) -> None:
        await spending.begin(100, 300, ROOM)
        assert await say(spending, 100, 150) == []

    spend(purse, answer)

    assert purse.book == [-400, 250] and purse.num_tokens == 850


def test_a_bound_that_the_context_has_no_room_for_is_not_reserved() -> None:
    purse = Purse(1000)

    async def answer(spending: Spending) -> None:
        await spending.begin(100, 100_000, 50)
        assert await say(spending, 100, 150) == []

    spend(purse, answer)

    assert purse.book == [-150, 0]


def test_an_answer_without_a_bound_reserves_slice_by_slice_each_before_the_last_is_used_up() -> None:
    purse = Purse(ROOM)

    async def answer(spending: Spending) -> None:
        await spending.begin(10, None, ROOM)
        assert await say(spending, 10, 10 + SLICE - LEAD) == [] and len(purse.book) == 1
        assert await say(spending, 10 + SLICE - LEAD, 11 + SLICE - LEAD) == [] and len(purse.book) == 2
        assert await say(spending, 11 + SLICE - LEAD, 10 + 2 * SLICE - LEAD) == []

    spend(purse, answer)

    assert purse.book == [-(10 + SLICE), -SLICE, LEAD]


def test_an_answer_without_a_bound_never_reserves_more_than_its_context_has_room_for() -> None:
    purse = Purse(ROOM)

    async def answer(spending: Spending) -> None:
        await spending.begin(10, None, SLICE + 5)
        assert await say(spending, 10, 10 + SLICE + 5) == []

    spend(purse, answer)

    assert purse.book == [-(10 + SLICE), -5, 0]


def test_an_answer_without_a_bound_takes_what_a_small_budget_has() -> None:
    """A key of 600 tokens a minute could ask for nothing that did not name max_tokens."""
    purse = Purse(600)

    async def answer(spending: Spending) -> None:
        await spending.begin(10, None, ROOM)
        assert await say(spending, 10, 200) == []

    spend(purse, answer)

    assert purse.book == [-600, 400]


def test_an_answer_that_outgrows_the_budget_is_told_before_the_last_token_is_spent() -> None:
    purse = Purse(SLICE + 20)
    refused: list[MyLLMError] = []

    async def answer(spending: Spending) -> None:
        await spending.begin(10, None, ROOM)
        refused.extend(await say(spending, 10, ROOM))

    spend(purse, answer)

    assert [str(error) for error in refused] == ["no tokens left"]
    assert 0 <= purse.num_tokens < 2 * LEAD


def test_a_prompt_that_finds_no_room_is_refused_and_pays_nothing() -> None:
    purse = Purse(100)

    async def answer(spending: Spending) -> None:
        await spending.begin(90, None, ROOM)

    with pytest.raises(RateLimited):
        spend(purse, answer)
    assert purse.book == []


def test_a_second_attempt_reserves_nothing_more() -> None:
    purse = Purse(1000)

    async def answer(spending: Spending) -> None:
        await spending.begin(5, 10, ROOM)
        await spending.begin(5, 10, ROOM)
        spending.num_used = 6

    spend(purse, answer)

    assert purse.book == [-15, 9]


@pytest.mark.parametrize(("num_tokens", "book"), [(1000, [-105, 105]), (10, [])])
@pytest.mark.parametrize("refusal", [RateLimited("no tokens left"), Unauthorized("revoked")])
def test_what_a_client_that_leaves_had_asked_for_is_given_back(num_tokens: int, book: list[int], refusal: MyLLMError) -> None:
    purse = Purse(num_tokens)
    purse.refusal = refusal

    async def run() -> None:
        async def answer() -> None:
            async with Spending(purse) as spending:
                await spending.begin(5, 100, ROOM)

        purse.go.clear()
        asking = asyncio.ensure_future(answer())
        await purse.asked.wait()
        asking.cancel()
        purse.go.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())

    assert purse.book == book


def test_a_slice_that_was_asked_for_when_the_answer_ended_is_given_back() -> None:
    purse = Purse(ROOM)

    async def answer(spending: Spending) -> None:
        await spending.begin(10, None, ROOM)
        purse.go.clear()
        spending.grow(10 + SLICE, lambda error: None)
        spending.num_used = 10 + SLICE
        asyncio.get_running_loop().call_later(0.01, purse.go.set)

    spend(purse, answer)

    assert purse.book == [-(10 + SLICE), -SLICE, SLICE]


def test_without_a_budget_nothing_is_counted() -> None:
    async def answer(spending: Spending) -> None:
        assert not spending.is_counted
        await spending.begin(5)
        spending.grow(10**9, lambda error: pytest.fail("nobody refuses"))
        spending.num_used = 6

    spend(None, answer)
