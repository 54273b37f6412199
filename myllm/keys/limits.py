"""What a key's limits say to one more request, and to some more tokens. Pure: time and counts in, new counts or an error out.

A minute (a day) begins with a key's first request after the last one ended, that of the tokens with the first tokens, and
never moves: refused requests do not prolong it. A request that is refused for the number of requests counts for nothing;
one that is refused for its tokens has made its request and used no tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from myllm.caller import Reservation
from myllm.errors import QuotaExceeded, RateLimited

MINUTE_S = 60.0
DAY_S = 86_400.0


class Standing(NamedTuple):
    """The minute's requests: how many the key may make, how many are left, and when the minute ends (epoch seconds)."""

    limit: int
    remaining: int
    reset_epoch_s: int


class Window(NamedTuple):
    """A stretch of time and what was used in it."""

    began_at: float
    used: int

    def at(self, now: float, length_s: float) -> Window:
        """This window while it lasts, then a new one that begins now.

        A clock that was set back by less than a window goes on with the old one; further back, the old one means nothing.
        """
        return self if abs(now - self.began_at) < length_s else Window(now, 0)

    def plus(self, count: int) -> Window:
        return Window(self.began_at, self.used + count)


@dataclass(frozen=True)
class Account:
    """A key's limits (0 is none) and its three windows."""

    name: str
    rpm: int
    tpm: int
    rpd: int
    minute: Window
    day: Window
    tokens: Window

    def standing(self, now: float) -> Standing | None:
        """None where the key's requests a minute have no limit."""
        minute = self.minute.at(now, MINUTE_S)
        return Standing(self.rpm, max(self.rpm - minute.used, 0), math.ceil(minute.began_at + MINUTE_S)) if self.rpm else None

    def with_request(self, now: float) -> Account:
        """Raises QuotaExceeded or RateLimited; where the day is over, waiting for the next minute would not help."""
        minute, day = self.minute.at(now, MINUTE_S), self.day.at(now, DAY_S)
        if self.rpd and day.used >= self.rpd:
            ends_at = day.began_at + DAY_S
            raise QuotaExceeded(
                f"key '{self.name}' has made its {self.rpd:,} requests of the day; the next day begins at {_utc(ends_at)}",
                retry_after_s=_seconds(ends_at - now),
            )
        if self.rpm and minute.used >= self.rpm:
            wait_s = _seconds(minute.began_at + MINUTE_S - now)
            raise RateLimited(
                f"key '{self.name}' has made its {self.rpm:,} requests of the minute; the next minute begins in {wait_s} s",
                retry_after_s=wait_s,
            )
        return replace(self, minute=minute.plus(1), day=day.plus(1))

    def with_tokens(self, at_least: int, now: float, at_most: int | None = None) -> tuple[Account, Reservation]:
        """As many as the minute has left, up to `at_most` (None: `at_least`). Raises RateLimited where that is too few."""
        tokens = self.tokens.at(now, MINUTE_S)
        wait_s = _seconds(tokens.began_at + MINUTE_S - now)
        left = max(self.tpm - tokens.used, 0)
        if at_least > self.tpm:
            raise RateLimited(
                f"this needs {at_least:,} tokens and key '{self.name}' has {self.tpm:,} a minute, so it will never fit; "
                "lower max_tokens or shorten the prompt",
                retry_after_s=wait_s,
            )
        if at_least > left:
            raise RateLimited(
                f"this needs {at_least:,} tokens and key '{self.name}' has {left:,} left of its {self.tpm:,} of the minute; "
                f"the next minute begins in {wait_s} s",
                retry_after_s=wait_s,
            )
        taken = min(at_least if at_most is None else at_most, left)
        return replace(self, tokens=tokens.plus(taken)), Reservation(tokens.began_at, taken)

    def with_settled(self, reservations: Sequence[Reservation], num_used: int, now: float) -> Account:
        """What was reserved of the present minute and not used is free again; of one that is over nothing is left to free.

        More than was reserved is charged to the present minute, though it may come to hold more than its limit.
        """
        tokens = self.tokens.at(now, MINUTE_S)
        unused = sum(reservation.num_tokens for reservation in reservations) - num_used
        still_held = sum(reservation.num_tokens for reservation in reservations if reservation.began_at == tokens.began_at)
        return replace(self, tokens=Window(tokens.began_at, max(tokens.used - min(unused, still_held), 0)))


def _seconds(left_s: float) -> int:
    return max(math.ceil(left_s), 1)


def _utc(epoch_s: float) -> str:
    return datetime.fromtimestamp(math.ceil(epoch_s), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
