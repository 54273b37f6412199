"""An answer that is not finished in time: 504 before the first byte, an event after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from live_server import LiveServer

LONG = {"message": "Write a very long story.", "temperature": 0, "max_tokens": 2000, "reasoning": "low"}


@pytest.fixture
def hasty(make_server: Callable[..., LiveServer]) -> Iterator[LiveServer]:
    live = make_server(MYLLM_REQUEST_TIMEOUT="0.1")
    live.post("/api/models/tiny/load").raise_for_status()
    yield live
    live.stop()


def test_an_answer_that_takes_too_long_is_504_or_an_error_event(hasty: LiveServer) -> None:
    whole = hasty.post("/chat", **LONG)
    *events, last = hasty.stream("/chat", **LONG)

    assert whole.status_code == 504 and "0.1 s" in whole.json()["detail"]
    assert last == {"error": whole.json()["detail"], "done": True}
    assert all(event["done"] is False for event in events)
