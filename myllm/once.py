"""`Once`: a last act that is done once and to its end, also where whoever waits for it is cancelled over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Once:
    def __init__(self, act: Callable[[], Coroutine[None, None, None]]) -> None:
        self._act = act
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Do it, or wait until it is done. Raises what it raised, to those who waited; who comes later is told nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._act())
        elif self._task.done():
            return
        await asyncio.shield(self._task)
