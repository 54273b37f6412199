"""Who asks, as the endpoints see it: what stands before the dialects left it in the scope, and nobody is asked twice."""

from __future__ import annotations

import logging

from starlette.requests import HTTPConnection

from myllm.caller import ANYBODY, Caller
from myllm.errors import InsufficientScope

SHORTEST_STAY_S = 1.0
log = logging.getLogger("myllm.access")


def caller_of(connection: HTTPConnection) -> Caller:
    """The key's owner; ANYBODY while no key is configured."""
    caller: Caller = connection.scope.get("caller", ANYBODY)
    return caller


def require_admin(connection: HTTPConnection, what: str) -> None:
    """Raises InsufficientScope; `what` completes "… may not": "pull models"."""
    caller = caller_of(connection)
    if caller.scope != "admin":
        raise InsufficientScope(
            f"the key '{caller.name}' has the scope '{caller.scope}' and may not {what}; that takes a key of scope 'admin'"
        )


def check_keep_alive(connection: HTTPConnection, keep_alive_s: float | None) -> None:
    """A request that leaves its model no time to stay unloads it. Raises InsufficientScope where the key may not."""
    if keep_alive_s is not None and keep_alive_s < SHORTEST_STAY_S:
        require_admin(connection, "unload models, as 'keep_alive' of less than a second does")


def note_user(what: str, user: str | None, connection: HTTPConnection) -> None:
    """What a request is answered by, and for whom, in the access log: that is what a client's `user` is for."""
    if user is not None:
        log.info("%s is for user %r of key %r", what, user, caller_of(connection).name)


async def count_request(connection: HTTPConnection) -> None:
    """Count one more request of this key: a WebSocket's message, after the handshake, which counts for none.

    Raises RateLimited or QuotaExceeded, and Unauthorized once the key is revoked.
    """
    count = connection.scope.get("count_request")
    if count is not None:
        await count()
