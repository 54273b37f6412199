from __future__ import annotations

import asyncio
from contextlib import suppress

from myllm.once import Once


def test_it_is_done_once_and_to_its_end_though_who_asked_first_is_cancelled() -> None:
    async def run() -> list[str]:
        began, may_end, done = asyncio.Event(), asyncio.Event(), list[str]()

        async def act() -> None:
            began.set()
            await may_end.wait()
            done.append("done")

        once = Once(act)
        first = asyncio.create_task(once())
        await began.wait()
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        second = asyncio.create_task(once())
        may_end.set()
        await second
        await once()
        return done

    assert asyncio.run(run()) == ["done"]


def test_what_it_raises_is_told_to_those_who_wait_and_to_nobody_later() -> None:
    async def run() -> None:
        async def act() -> None:
            await asyncio.sleep(0)
            raise OSError("the disk is full")

        once = Once(act)
        told = await asyncio.gather(once(), once(), return_exceptions=True)
        await once()

        assert [str(error) for error in told] == ["the disk is full"] * 2

    asyncio.run(run())
