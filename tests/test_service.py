"""The service where a client leaves at the worst moment; all else of it is asked at the running server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

from myllm.chat.library import TemplateLibrary
from myllm.config import Settings
from myllm.manager import ModelManager
from myllm.reply import Reply
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.store.catalog import Catalog
from myllm.store.store import Store
from myllm.types import ChatRequest, FinishReason, Message, Usage


class EndedReply:
    """A reply whose last token is there."""

    model = "tiny"
    text = "Hello!"
    finish_reason = FinishReason.STOP
    usage = Usage(3, 2)

    def on_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        self.end = callback


def service_of(folder: Path) -> Service:
    store, settings = Store(folder, catalog=Catalog.load()), Settings()
    return Service(settings, store, SessionStore(folder / "s.db"), ModelManager(store, settings), TemplateLibrary())


def test_a_reply_is_stored_also_where_the_client_leaves_while_it_waits_to_be(tmp_path: Path) -> None:
    """With every thread busy the storing had not begun; it was given up with the client, and marked as done."""

    async def run() -> list[str]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        service, reply, is_free, is_asked = service_of(tmp_path), EndedReply(), threading.Event(), asyncio.Event()
        request = ChatRequest("tiny", (Message("user", "Hi"),), session_id="left", uses_session=True)

        async def stream() -> None:
            async with service._stored("left", request, cast(Reply, reply), None):
                busy = asyncio.create_task(asyncio.to_thread(is_free.wait))
                await asyncio.sleep(0)  # it has the one thread now
                is_asked.set()
                await reply.end()
                await busy

        streaming = asyncio.create_task(stream())
        await is_asked.wait()
        await asyncio.sleep(0)
        streaming.cancel()
        asyncio.get_running_loop().call_later(0, is_free.set)
        with suppress(asyncio.CancelledError):
            await streaming
        return [stored.message.content for stored in service.sessions.get("left", None).messages]

    assert asyncio.run(run()) == ["Hi", "Hello!"]
