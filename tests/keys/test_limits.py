from __future__ import annotations

import pytest
from keys.clock import NOON

from myllm.caller import Reservation
from myllm.errors import QuotaExceeded, RateLimited
from myllm.keys.limits import DAY_S, MINUTE_S, Account, Standing, Window

NEVER = Window(0.0, 0)


def account(rpm: int = 0, tpm: int = 0, rpd: int = 0) -> Account:
    return Account("alice", rpm, tpm, rpd, NEVER, NEVER, NEVER)


def after_requests(of: Account, *times: float) -> Account:
    for now in times:
        of = of.with_request(now)
    return of


def test_a_minute_begins_with_the_first_request_and_ends_60_seconds_later() -> None:
    used = after_requests(account(rpm=2), NOON, NOON + 59.9)

    with pytest.raises(RateLimited):
        used.with_request(NOON + 59.99)
    assert used.with_request(NOON + 60).minute == Window(NOON + 60, 1)


def test_an_idle_minute_is_over_and_the_next_begins_with_the_next_request() -> None:
    used = after_requests(account(rpm=1), NOON, NOON + 1000)

    assert used.minute == Window(NOON + 1000, 1)


def test_the_standing_tells_the_limit_what_is_left_and_when_the_minute_ends() -> None:
    used = after_requests(account(rpm=10), NOON + 0.2, NOON + 1)

    assert used.standing(NOON + 2) == Standing(limit=10, remaining=8, reset_epoch_s=int(NOON) + 61)
    assert used.standing(NOON + 100) == Standing(limit=10, remaining=10, reset_epoch_s=int(NOON) + 160)
    assert account(tpm=5).standing(NOON) is None


def test_a_refusal_of_the_minute_names_key_and_limit_and_when_it_ends() -> None:
    used = after_requests(account(rpm=2), NOON, NOON)

    with pytest.raises(RateLimited) as refused:
        used.with_request(NOON + 17.5)

    assert refused.value.message == "key 'alice' has made its 2 requests of the minute; the next minute begins in 43 s"
    assert (refused.value.retry_after_s, refused.value.code) == (43, "rate_limit_exceeded")


def test_a_refusal_of_the_day_is_another_error_and_names_the_time() -> None:
    used = after_requests(account(rpd=3), NOON, NOON + 100, NOON + 40_000)

    with pytest.raises(QuotaExceeded) as refused:
        used.with_request(NOON + DAY_S - 0.5)

    assert refused.value.message == "key 'alice' has made its 3 requests of the day; the next day begins at 2027-01-16 08:00:00 UTC"
    assert (refused.value.retry_after_s, refused.value.code) == (1, "insufficient_quota")
    assert used.with_request(NOON + DAY_S).day == Window(NOON + DAY_S, 1)


def test_where_minute_and_day_are_over_the_day_is_told() -> None:
    with pytest.raises(QuotaExceeded):
        after_requests(account(rpm=1, rpd=1), NOON, NOON + 1)


def test_a_limit_of_0_is_none() -> None:
    used = after_requests(account(), *[NOON] * 1000)

    assert used.minute.used == used.day.used == 1000


def test_tokens_fit_to_the_last_one() -> None:
    used = account(tpm=100).with_tokens(60, NOON)[0].with_tokens(40, NOON + 30)[0]

    with pytest.raises(RateLimited, match=r"needs 1 tokens .* has 0 left of its 100 of the minute; .* in 20 s") as refused:
        used.with_tokens(1, NOON + 40)[0]
    assert refused.value.retry_after_s == 20
    assert used.with_tokens(100, NOON + MINUTE_S)[0].tokens == Window(NOON + MINUTE_S, 100)


@pytest.mark.parametrize(("at_least", "at_most", "taken"), [(10, 50, 50), (10, 100, 60), (60, 100, 60), (60, 60, 60), (10, None, 10)])
def test_as_many_tokens_are_taken_as_there_are(at_least: int, at_most: int | None, taken: int) -> None:
    used = account(tpm=100).with_tokens(40, NOON)[0]

    after, reservation = used.with_tokens(at_least, NOON + 1, at_most)

    assert (after.tokens, reservation) == (Window(NOON, 40 + taken), Reservation(NOON, taken))


def test_what_can_never_fit_is_told_so() -> None:
    with pytest.raises(
        RateLimited, match=r"needs 101 tokens and key 'alice' has 100 a minute, so it will never fit; lower max_tokens"
    ) as refused:
        account(tpm=100).with_tokens(101, NOON)[0]

    assert refused.value.retry_after_s == 60


def test_what_was_reserved_and_not_used_is_free_again() -> None:
    used = account(tpm=100).with_tokens(100, NOON)[0].with_settled([Reservation(NOON, 100)], 30, NOON + 5)

    assert used.with_tokens(70, NOON + 6)[0].tokens == Window(NOON, 100)


def test_a_settlement_after_the_minute_gives_nothing_to_the_next_one() -> None:
    used = account(tpm=100).with_tokens(100, NOON)[0].with_tokens(50, NOON + 61)[0]

    assert used.with_settled([Reservation(NOON, 100)], 0, NOON + 62).tokens == Window(NOON + 61, 50)
    assert used.with_settled([Reservation(NOON + 61, 50)], 0, NOON + 62).tokens == Window(NOON + 61, 0)


def test_of_reservations_of_two_minutes_only_the_present_ones_are_given_back() -> None:
    used = account(tpm=100).with_tokens(50, NOON)[0]

    assert used.with_settled([Reservation(NOON - 61, 80), Reservation(NOON, 20)], 85, NOON + 1).tokens == Window(NOON, 35)
    assert used.with_settled([Reservation(NOON - 61, 80), Reservation(NOON, 20)], 10, NOON + 1).tokens == Window(NOON, 30)


def test_more_than_was_reserved_is_charged_to_the_minute_that_runs() -> None:
    used = account(tpm=100).with_tokens(90, NOON)[0]

    assert used.with_settled([Reservation(NOON, 90)], 120, NOON + 1).tokens == Window(NOON, 120)
    assert used.with_settled([Reservation(NOON, 90)], 120, NOON + 70).tokens == Window(NOON + 70, 30)


@pytest.mark.parametrize(("back_s", "is_limited"), [(0.001, True), (30, True), (59, True), (61, False), (86_400 * 400, False)])
def test_a_clock_that_is_set_back_locks_nobody_out_for_long_and_lets_nobody_in_early(back_s: float, is_limited: bool) -> None:
    used = after_requests(account(rpm=1), NOON)

    if is_limited:
        with pytest.raises(RateLimited):
            used.with_request(NOON - back_s)
    else:
        assert used.with_request(NOON - back_s).minute == Window(NOON - back_s, 1)
