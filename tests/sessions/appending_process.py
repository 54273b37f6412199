"""Appends to a session until it is done or killed, and prints a number when that append has returned.

Run as `python appending_process.py FILE SESSION COUNT`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from myllm.sessions import SessionStore
from myllm.types import FinishReason, Message


def main(path: str, session_id: str, count: str) -> None:
    store = SessionStore(Path(path))
    for number in range(int(count)):
        store.append_turn(session_id, [Message("user", f"{session_id} {number} " + "x" * 20_000)], model="tiny", owner=None)
        store.add_reply(session_id, Message("assistant", f"{session_id} {number}"), finish_reason=FinishReason.STOP)
        print(number, flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
