"""API keys and what they may still spend: `KeyStore` is the file, `Keyring` what a running server asks of it."""

from __future__ import annotations

from myllm.keys.key import Key, checked_name, find, given_key
from myllm.keys.key_store import KeyStore
from myllm.keys.keyring import Keyring
from myllm.keys.limits import Standing

__all__ = ["Key", "KeyStore", "Keyring", "Standing", "checked_name", "find", "given_key"]
