"""`Caller`: who asks. Whose sessions it sees, what it may do, and whose tokens it spends.

The service is told the caller with each request and knows neither keys nor HTTP. Without keys everybody is `ANYBODY`:
sees all, may do all, spends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Scope = Literal["inference", "admin"]


class Reservation(NamedTuple):
    """Tokens that were taken of the minute that began at `began_at` (epoch seconds)."""

    began_at: float
    num_tokens: int


class TokenBudget(Protocol):
    """The tokens that a caller may still spend in this minute.

    A request reserves what it may come to use before it uses it, and settles what it used when it has ended, so that many
    at once cannot outrun the limit together.
    """

    async def reserve(self, at_least: int, at_most: int | None = None) -> Reservation:
        """Take as many tokens as there are, up to `at_most` (None: `at_least`). Raises RateLimited where there are too few."""

    async def settle(self, reservations: Sequence[Reservation], num_used: int) -> None:
        """Give back what was reserved and not used, as far as its minute still lasts; done also if the caller is cancelled."""


@dataclass(frozen=True)
class Caller:
    """name: the key's, which owns the sessions that it makes. An admin, and whoever asks where no key is set, sees all."""

    name: str | None = None
    scope: Scope = "admin"
    budget: TokenBudget | None = None

    @property
    def owner(self) -> str | None:
        """Whose sessions are seen; None is everybody's."""
        return None if self.scope == "admin" else self.name


ANYBODY = Caller()
