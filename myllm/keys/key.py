"""`Key`: one API key as it is kept, and how a secret that somebody sends is matched with it. Pure values, no database."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from myllm.caller import Scope
from myllm.errors import InvalidRequest

SECRET_HEAD = "sk-myllm-"
SECRET_BYTES = 32
PREFIX_LENGTH = len(SECRET_HEAD) + 4  # enough to tell keys apart; 232 of the 256 bits stay unknown
MAX_LIMIT = 2**53

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Key:
    """A key without its secret. rpm, tpm and rpd: requests a minute, tokens a minute, requests a day; 0 is no limit.

    id: None for a key of the settings, which is in no file and has no limits. Times are epoch seconds; `last_used_at` is
    that of the last request that counted. `prefix` is how the secret begins.
    """

    id: int | None
    name: str
    scope: Scope
    digest: bytes = field(repr=False)
    prefix: str = ""
    rpm: int = 0
    tpm: int = 0
    rpd: int = 0
    created_at: float = 0.0
    last_used_at: float | None = None


def new_secret() -> str:
    return SECRET_HEAD + secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: bytes) -> bytes:
    """SHA-256. A slow hash guards words that people choose against guessing; nobody guesses 256 random bits, however fast."""
    return hashlib.sha256(secret).digest()


def given_key(secret: str) -> Key:
    """A key of the setting `api_keys`: it may do everything."""
    return Key(None, "api_keys", "admin", digest(secret.encode()))


def find(secret: bytes, keys: Iterable[Key]) -> Key | None:
    """The key with this secret. All are compared, each in constant time, so the answer's time tells nothing."""
    asked = digest(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, asked):
            found = key
    return found


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"a key's name takes 1 to 64 letters (A-Z, a-z), digits, '.', '_' and '-', the first a letter or a digit, not {name[:64]!r}",
            param="name",
        )
    return name


def checked_limit(value: int, what: str) -> int:
    if not 0 <= value <= MAX_LIMIT:
        raise InvalidRequest(f"{what} is {value}, it takes 0 (no limit) to {MAX_LIMIT:,}", param=what)
    return value
