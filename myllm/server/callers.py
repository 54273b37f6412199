"""Who asks, as the endpoints see it: what stands before the dialects left it in the scope, and nobody is asked twice."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from myllm.caller import ANYBODY, Caller
from myllm.errors import InsufficientScope


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
