"""What an answer is known by: its id, its time, and what computed it."""

from __future__ import annotations

import hashlib
import secrets
import time
from importlib.metadata import version

from msgspec import Struct

from myllm import __version__

# Two answers with one fingerprint, model and seed were computed by the same code.
FINGERPRINT = "fp_" + hashlib.sha256(f"{__version__} {version('llama-cpp-python')}".encode()).hexdigest()[:10]


class Identity(Struct, frozen=True):
    """created: seconds since 1970."""

    id: str
    created: int
    system_fingerprint: str = FINGERPRINT

    @classmethod
    def new(cls, prefix: str) -> Identity:
        return cls(f"{prefix}-{secrets.token_hex(16)}", int(time.time()))
