from __future__ import annotations

import hashlib
import hmac

import pytest

from myllm.errors import InvalidRequest
from myllm.keys import checked_name, find, given_key
from myllm.keys.key import SECRET_HEAD, new_secret


def test_a_secret_is_long_random_and_fit_for_a_header() -> None:
    secrets = {new_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert all(secret.startswith(SECRET_HEAD) and len(secret) == len(SECRET_HEAD) + 43 for secret in secrets)
    assert all(secret.isascii() and secret.isprintable() and " " not in secret for secret in secrets)


def test_the_secret_finds_its_key_and_nothing_else_does() -> None:
    keys = [given_key(secret) for secret in ("first", "second", "schlüssel")]

    assert [find(secret.encode(), keys) for secret in ("first", "second", "schlüssel")] == keys
    assert [find(secret, keys) for secret in (b"", b"firs", b"first ", b"FIRST", keys[0].digest, keys[0].digest.hex().encode())] == [
        None
    ] * 6
    assert find(b"first", []) is None


def test_all_keys_are_compared_in_constant_time_wherever_the_right_one_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [given_key(secret) for secret in ("first", "second", "third")]
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for secret in (b"first", b"third", b"none"):
        compared.clear()
        find(secret, keys)

        assert compared == [(key.digest, hashlib.sha256(secret).digest()) for key in keys]


def test_a_key_is_printed_without_its_hash() -> None:
    key = given_key("secret")

    assert "secret" not in repr(key) and repr(key.digest) not in repr(key)


@pytest.mark.parametrize("name", ["a", "Alice", "9", "team.a_b-c", "x" * 64])
def test_a_name_may_be(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, ".a", "-a", "_a", "a b", "a/b", "ä", "a\n", "a\0", "a:b"])
def test_a_name_may_not_be(name: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 64 letters"):
        checked_name(name)
