from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from keys.clock import NOON, Clock

from myllm.caller import Caller, Reservation
from myllm.errors import RateLimited, Unauthorized, Unavailable
from myllm.keys import Key, Keyring, KeyStore, Standing, find, keyring as module, schema
from myllm.keys.keyring import LOOK_AGAIN_S


@pytest.fixture
def ring(store: KeyStore) -> Iterator[Keyring]:
    with closing(Keyring(store, ["given"])) as ring:
        yield ring


@pytest.fixture
def pass_a_second(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The ring's own clock, not the store's: when it looks again."""
    started, passed = time.monotonic(), 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: started + passed)

    def turn() -> None:
        nonlocal passed
        passed += LOOK_AGAIN_S

    return turn


def names(ring: Keyring) -> list[str]:
    return [key.name for key in asyncio.run(ring.keys())]


def test_a_ring_without_keys_is_empty(store: KeyStore) -> None:
    with closing(Keyring(store)) as ring:
        assert ring.is_empty and asyncio.run(ring.keys()) == ()


def test_a_ring_holds_the_keys_of_the_settings_and_of_the_store(store: KeyStore) -> None:
    secret = store.create("alice")

    with closing(Keyring(store, ["given"])) as ring:
        keys = asyncio.run(ring.keys())

    assert not ring.is_empty
    assert [find(each.encode(), keys) for each in ("given", secret)] == list(keys)
    assert [(key.name, key.scope) for key in keys] == [("api_keys", "admin"), ("alice", "inference")]


def test_what_another_process_makes_or_revokes_is_seen_a_second_later(
    pass_a_second: Callable[[], None], store: KeyStore, path: Path
) -> None:
    with closing(Keyring(store, ["given"])) as ring, closing(KeyStore(path)) as other:
        other.create("alice")
        assert names(ring) == ["api_keys"]
        pass_a_second()
        assert names(ring) == ["api_keys", "alice"]

        other.revoke("alice")
        assert names(ring) == ["api_keys", "alice"]
        pass_a_second()
        assert names(ring) == ["api_keys"]


def test_keys_that_cannot_be_read_again_still_hold(
    pass_a_second: Callable[[], None], store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.create("alice")
    with closing(Keyring(store)) as ring:
        store.close()
        pass_a_second()

        assert names(ring) == ["alice"]
        assert "the old ones hold" in caplog.text


def test_a_key_of_the_settings_has_no_limits_and_may_do_everything(ring: Keyring) -> None:
    async def given() -> tuple[Caller, Standing | None, Standing | None]:
        (key,) = await ring.keys()
        return ring.caller(key), await ring.take_request(key), await ring.standing(key)

    assert asyncio.run(given()) == (Caller("api_keys", "admin", None), None, None)


def test_a_caller_has_the_keys_name_and_scope_and_a_budget_where_tokens_are_limited(ring: Keyring, make: Callable[..., Key]) -> None:
    limited, unlimited = ring.caller(make("alice", tpm=10)), ring.caller(make("bob", rpm=10))

    assert (limited.name, limited.scope, limited.owner) == ("alice", "inference", "alice")
    assert limited.budget is not None and unlimited.budget is None


def test_requests_are_counted_and_looking_counts_none(ring: Keyring, make: Callable[..., Key]) -> None:
    key = make(rpm=3)

    async def ask() -> list[Standing | None]:
        return [await ring.standing(key), await ring.take_request(key), await ring.standing(key)]

    assert asyncio.run(ask()) == [Standing(3, left, int(NOON) + 60) for left in (3, 2, 2)]


def test_a_revoked_key_counts_no_more_even_before_the_ring_looks_again(ring: Keyring, store: KeyStore, make: Callable[..., Key]) -> None:
    key = make()
    store.revoke("alice")

    with pytest.raises(Unauthorized):
        asyncio.run(ring.take_request(key))


def test_of_many_requests_at_once_exactly_the_limit_is_served(ring: Keyring, make: Callable[..., Key]) -> None:
    key = make(rpm=10)

    async def ask() -> list[object]:
        return await asyncio.gather(*(ring.take_request(key) for _ in range(100)), return_exceptions=True)

    answers = asyncio.run(ask())

    assert sorted(each.remaining for each in answers if isinstance(each, Standing)) == list(range(10))
    assert sum(isinstance(each, RateLimited) for each in answers) == 90


def test_a_locked_file_does_not_hold_up_the_event_loop(ring: Keyring, path: Path, make: Callable[..., Key]) -> None:
    key = make(rpm=2)

    async def ask() -> Standing | None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            taking = asyncio.ensure_future(ring.take_request(key))
            await asyncio.wait_for(asyncio.gather(*(asyncio.sleep(0) for _ in range(100))), 4)
            assert not taking.done()
            other.execute("COMMIT")
        return await taking

    assert asyncio.run(ask()) == Standing(2, 1, int(NOON) + 60)


def test_a_budget_reserves_and_gives_back(ring: Keyring, make: Callable[..., Key]) -> None:
    key = make(tpm=100)

    async def spend() -> None:
        budget = ring.caller(key).budget
        assert budget is not None
        reserved = [await budget.reserve(80)]
        with pytest.raises(RateLimited, match="has 20 left of its 100"):
            await budget.reserve(21)
        reserved.append(await budget.reserve(20))
        await budget.settle(reserved, 30)
        await budget.reserve(70)
        with pytest.raises(RateLimited):
            await budget.reserve(1)

    asyncio.run(spend())


def test_many_requests_at_once_never_reserve_more_than_the_limit(ring: Keyring, make: Callable[..., Key]) -> None:
    key = make(tpm=1000)

    async def spend() -> int:
        budgets = [ring.caller(key).budget for _ in range(50)]
        asked = await asyncio.gather(*(budget.reserve(90) for budget in budgets if budget), return_exceptions=True)
        return sum(isinstance(each, Reservation) for each in asked)

    assert asyncio.run(spend()) == 1000 // 90


def test_a_settlement_after_the_minute_gives_the_next_one_nothing(ring: Keyring, make: Callable[..., Key], clock: Clock) -> None:
    key = make(tpm=100)

    async def spend() -> None:
        old, new = ring.caller(key).budget, ring.caller(key).budget
        assert old is not None and new is not None
        before = await old.reserve(100)
        clock.now += 61
        now = await new.reserve(100)
        await old.settle([before], 0)
        with pytest.raises(RateLimited):
            await new.reserve(1)
        await new.settle([now], 40)
        await new.reserve(60)

    asyncio.run(spend())


def test_an_answer_over_two_minutes_gives_back_what_it_holds_of_the_present_one(
    ring: Keyring, make: Callable[..., Key], clock: Clock
) -> None:
    key = make(tpm=100)

    async def spend() -> None:
        budget = ring.caller(key).budget
        assert budget is not None
        before = await budget.reserve(90)
        clock.now += 61
        now = await budget.reserve(40)
        await budget.settle([before, now], 95)
        await budget.reserve(95)
        with pytest.raises(RateLimited):
            await budget.reserve(6)

    asyncio.run(spend())


def test_a_request_that_is_cancelled_while_it_settles_has_settled(ring: Keyring, path: Path, make: Callable[..., Key]) -> None:
    key = make(tpm=100)

    async def spend() -> None:
        budget = ring.caller(key).budget
        assert budget is not None
        reserved = await budget.reserve(100)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            ahead = asyncio.ensure_future(ring.take_request(key))  # so that the settlement has not even begun
            settling = asyncio.ensure_future(budget.settle([reserved], 0))
            await asyncio.sleep(0)
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
            other.execute("COMMIT")
        await ahead
        await budget.reserve(100)

    asyncio.run(spend())


def test_closing_waits_for_what_was_asked(store: KeyStore, path: Path, clock: Clock, make: Callable[..., Key]) -> None:
    key = make(tpm=100)
    ring = Keyring(store)
    reserved = store.reserve_tokens(key.id, 100)

    async def settle() -> None:
        settling = asyncio.ensure_future(ring.settle_tokens(key.id, [reserved], 0))
        await asyncio.sleep(0)
        ring.close()
        await settling

    asyncio.run(settle())

    with closing(KeyStore(path, clock)) as again:
        again.reserve_tokens(key.id, 100)


def test_all_who_ask_while_the_keys_are_read_again_are_told_the_new_ones(
    pass_a_second: Callable[[], None], store: KeyStore, path: Path
) -> None:
    """Of a burst only the first request waited for the look; the others were refused with a key that was seconds old."""

    async def ask(ring: Keyring) -> list[tuple[Key, ...]]:
        return await asyncio.gather(*(ring.keys() for _ in range(10)))

    with closing(Keyring(store, ["given"])) as ring, closing(KeyStore(path)) as other:
        other.create("alice")
        pass_a_second()

        told = asyncio.run(ask(ring))

    assert [[key.name for key in keys] for keys in told] == [["api_keys", "alice"]] * 10


def test_of_many_that_wait_for_a_locked_file_each_is_refused_soon_and_not_one_after_the_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred requests waited for five seconds each, and the last one for eight minutes."""
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.1)
    with closing(KeyStore(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other, closing(Keyring(store)) as ring:
        store.create("alice", rpm=100)
        (key,) = store.list()
        other.execute("BEGIN IMMEDIATE")

        async def ask() -> list[object]:
            return await asyncio.gather(*(ring.take_request(key) for _ in range(20)), return_exceptions=True)

        refusals = asyncio.run(ask())

    told = [each.message for each in refusals if isinstance(each, Unavailable)]
    assert len(told) == 20
    assert sum("database is locked" in message for message in told) == 1


def test_an_answer_that_cannot_be_charged_is_an_answer_all_the_same(
    store: KeyStore, make: Callable[..., Key], caplog: pytest.LogCaptureFixture
) -> None:
    key = make(tpm=100)

    async def spend(ring: Keyring) -> None:
        budget = ring.caller(key).budget
        assert budget is not None
        reserved = await budget.reserve(10)
        store.close()
        await budget.settle([reserved], 7)

    with closing(Keyring(store)) as ring:
        asyncio.run(spend(ring))

    assert "7 tokens were not settled" in caplog.text


def test_a_file_that_is_taken_away_opens_the_server_to_nobody_and_is_told_once(
    pass_a_second: Callable[[], None], store: KeyStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.create("alice")
    with closing(Keyring(store)) as ring:
        path.rename(path.with_name("elsewhere.db"))
        seen = []
        for _ in range(2):
            pass_a_second()
            seen.append(names(ring))
        KeyStore(path).close()  # as any `myllm keys …` would make it anew, without keys
        pass_a_second()
        seen.append(names(ring))

    assert seen == [["alice"]] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "was removed or replaced while it was in use; restart the server" in caplog.text


def test_the_log_tells_when_the_last_key_goes_and_the_first_one_comes(
    pass_a_second: Callable[[], None], store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store.create("alice")
    with closing(Keyring(store)) as ring:
        for change in (
            lambda: store.create("bob"),
            lambda: store.revoke("alice"),
            lambda: store.revoke("bob"),
            lambda: store.create("eve"),
        ):
            change()
            pass_a_second()
            names(ring)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "everybody who reaches this server can use it" in caplog.messages[0]
