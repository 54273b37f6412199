"""How far a pull is, as it is told to people and clients: at most ten times a second, and never backwards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

Status = Literal["downloading", "verifying", "success"]

REPORT_EVERY_S = 0.1
SPEED_OVER_S = 5.0


class Progress(Struct, frozen=True, kw_only=True):
    """`completed` of `total` bytes are here. The speed is that of the last seconds; None where there is none to tell.

    digest: `sha256:…` of the model's file, of the first where there are several; None where it is not known.
    """

    name: str
    status: Status
    completed: int
    total: int
    bytes_per_second: int | None = None
    seconds_left: int | None = None
    digest: str | None = None


Report = Callable[[Progress], None]


class Meter:
    """Turns counts of bytes into Progress. Bytes that an earlier pull has brought count as here, but not as speed."""

    def __init__(self, name: str, total: int, report: Report, digest: str | None = None) -> None:
        self.name = name
        self.total = total
        self.digest = digest
        self._report = report
        self._completed = 0
        self._status: Status | None = None
        self._next_report = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def tell(self, status: Status, completed: int) -> None:
        """Reports a new status at once, and more bytes when it is time."""
        now = time.monotonic()
        if status == self._status and now < self._next_report:
            return
        self._completed = max(self._completed, min(completed, self.total))
        self._status, self._next_report = status, now + REPORT_EVERY_S
        speed = self._speed(now) if status == "downloading" else None
        left = (self.total - self._completed) // speed if speed else None
        self._report(
            Progress(
                name=self.name,
                status=status,
                completed=self._completed,
                total=self.total,
                bytes_per_second=speed,
                seconds_left=left,
                digest=self.digest,
            )
        )

    def _speed(self, now: float) -> int | None:
        self._seen.append((now, self._completed))
        while now - self._seen[0][0] > SPEED_OVER_S and len(self._seen) > 2:
            self._seen.popleft()
        since, before = self._seen[0]
        return round((self._completed - before) / (now - since)) if now > since else None
