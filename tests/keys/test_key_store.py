from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from keys.clock import NOON, Clock

from myllm.errors import Conflict, InvalidRequest, MyLLMError, NotFound, QuotaExceeded, RateLimited, Unauthorized, Unavailable
from myllm.keys import Key, Keyring, KeyStore, Standing


def test_a_created_key_is_found_by_its_secret_with_all_that_was_said(store: KeyStore) -> None:
    secret = store.create("alice", scope="admin", rpm=1, tpm=2, rpd=3)

    key = store.find(secret.encode())

    assert key is not None
    assert (key.name, key.scope, key.rpm, key.tpm, key.rpd, key.created_at, key.last_used_at) == ("alice", "admin", 1, 2, 3, NOON, None)
    assert secret.startswith(key.prefix) and len(key.prefix) == len("sk-myllm-") + 4
    assert store.find(secret[:-1].encode()) is None


def test_a_key_is_of_scope_inference_and_without_limits_unless_told_otherwise(store: KeyStore) -> None:
    store.create("alice")

    assert [(key.scope, key.rpm, key.tpm, key.rpd) for key in store.list()] == [("inference", 0, 0, 0)]


def test_keys_are_listed_in_the_order_in_which_they_were_made(store: KeyStore) -> None:
    for name in ("b", "c", "a"):
        store.create(name)

    assert [key.name for key in store.list()] == ["b", "c", "a"]


def test_a_name_is_used_once_until_it_is_revoked(store: KeyStore) -> None:
    first = store.create("alice")

    with pytest.raises(Conflict, match="there is a key 'alice' already"):
        store.create("alice")

    store.revoke("alice")
    second = store.create("alice")
    assert store.find(first.encode()) is None and store.find(second.encode()) is not None


@pytest.mark.parametrize(("name", "limits"), [("a b", {}), ("a", {"rpm": -1}), ("a", {"tpm": 2**53 + 1}), ("a", {"rpd": -5})])
def test_a_bad_name_or_limit_makes_no_key(name: str, limits: dict[str, int], store: KeyStore) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.create(name, **limits)  # type: ignore[arg-type]

    assert refused.value.param == next(iter(limits), "name")
    assert store.list() == []


def test_revoking_what_is_not_there_tells_what_is(store: KeyStore) -> None:
    store.create("alice")

    with pytest.raises(NotFound, match="there is no key 'bob'; there are: alice"):
        store.revoke("bob")


def test_the_secret_is_nowhere_in_the_files(store: KeyStore, path: Path) -> None:
    secret = store.create("alice", rpm=10)
    key = store.find(secret.encode())
    assert key is not None
    store.take_request(key.id)

    written = b"".join(file.read_bytes() for file in path.parent.iterdir())

    assert key.digest in written and b"alice" in written
    assert secret.encode() not in written and secret[len("sk-myllm-") + 4 :].encode() not in written


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_only_the_user_may_read_the_file_and_its_log(store: KeyStore, path: Path) -> None:
    store.create("alice")

    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_requests_count_down_and_the_one_too_many_is_refused(store: KeyStore, make: Callable[..., Key], clock: Clock) -> None:
    key = make(rpm=2)

    assert store.take_request(key.id) == Standing(2, 1, int(NOON) + 60)
    assert store.take_request(key.id) == Standing(2, 0, int(NOON) + 60)
    with pytest.raises(RateLimited):
        store.take_request(key.id)
    assert store.standing(key.id) == Standing(2, 0, int(NOON) + 60)

    clock.now += 60
    assert store.take_request(key.id) == Standing(2, 1, int(NOON) + 120)


def test_refused_requests_do_not_prolong_the_minute(store: KeyStore, make: Callable[..., Key], clock: Clock) -> None:
    key = make(rpm=1)
    store.take_request(key.id)

    for _ in range(59):
        clock.now += 1
        with pytest.raises(RateLimited):
            store.take_request(key.id)

    clock.now += 1
    store.take_request(key.id)


def test_a_request_refused_by_the_minute_does_not_count_for_the_day(store: KeyStore, make: Callable[..., Key], clock: Clock) -> None:
    key = make(rpm=1, rpd=2)
    store.take_request(key.id)
    with pytest.raises(RateLimited, match="of the minute"):
        store.take_request(key.id)

    clock.now += 60
    store.take_request(key.id)

    clock.now += 60
    with pytest.raises(QuotaExceeded, match="of the day"):
        store.take_request(key.id)


def test_looking_counts_nothing(store: KeyStore, make: Callable[..., Key], clock: Clock) -> None:
    key = make(rpm=5)

    looks = {store.standing(key.id) for _ in range(3)}

    assert looks == {Standing(5, 5, int(NOON) + 60)}
    clock.now += 30
    assert store.take_request(key.id) == Standing(5, 4, int(NOON) + 90)


def test_a_key_of_no_limits_is_noted_as_used(store: KeyStore, make: Callable[..., Key], clock: Clock) -> None:
    key = make()
    clock.now += 5

    assert store.take_request(key.id) is None

    assert [key.last_used_at for key in store.list()] == [NOON + 5]


def test_keys_do_not_share_their_limits(store: KeyStore, make: Callable[..., Key]) -> None:
    alice, bob = make("alice", rpm=1, tpm=10), make("bob", rpm=1, tpm=10)
    store.take_request(alice.id)
    store.reserve_tokens(alice.id, 10)

    assert store.take_request(bob.id) == Standing(1, 0, int(NOON) + 60)
    store.reserve_tokens(bob.id, 10)


def test_counts_survive_a_restart(store: KeyStore, path: Path, make: Callable[..., Key], clock: Clock) -> None:
    key = make(rpm=1, tpm=100)
    store.take_request(key.id)
    store.reserve_tokens(key.id, 60)
    store.close()

    clock.now += 20
    with closing(KeyStore(path, clock)) as again:
        with pytest.raises(RateLimited, match="in 40 s"):
            again.take_request(key.id)
        with pytest.raises(RateLimited, match="has 40 left"):
            again.reserve_tokens(key.id, 41)
        again.reserve_tokens(key.id, 40)


def test_a_settled_reservation_makes_room(store: KeyStore, make: Callable[..., Key]) -> None:
    key = make(tpm=100)
    reserved = store.reserve_tokens(key.id, 100)

    store.settle_tokens(key.id, [reserved], 1)

    store.reserve_tokens(key.id, 99)
    with pytest.raises(RateLimited):
        store.reserve_tokens(key.id, 1)


def test_a_refused_reservation_takes_nothing(store: KeyStore, make: Callable[..., Key]) -> None:
    key = make(tpm=100)
    store.reserve_tokens(key.id, 50)
    for too_many in (51, 101):
        with pytest.raises(RateLimited):
            store.reserve_tokens(key.id, too_many)

    store.reserve_tokens(key.id, 50)


def test_a_revoked_key_can_begin_nothing_and_end_what_it_began(store: KeyStore, make: Callable[..., Key]) -> None:
    key = make(rpm=10, tpm=100)
    reserved = store.reserve_tokens(key.id, 10)
    store.revoke("alice")
    successor = make("alice", tpm=100)

    for begin in (store.take_request, store.standing, lambda id: store.reserve_tokens(id, 1)):
        with pytest.raises(Unauthorized, match="has been revoked"):
            begin(key.id)
    store.settle_tokens(key.id, [reserved], 100)

    assert successor.id != key.id
    store.reserve_tokens(successor.id, 100)


def test_the_version_changes_with_keys_made_and_revoked_here_and_elsewhere(store: KeyStore, path: Path, make: Callable[..., Key]) -> None:
    versions = [store.version()]
    key = make()
    versions.append(store.version())
    with closing(KeyStore(path)) as other:
        other.create("bob")
        versions.append(store.version())
        other.revoke("bob")
        versions.append(store.version())
    store.take_request(key.id)

    assert len(set(versions)) == 4
    assert store.version() == versions[-1]


def test_a_closed_store_says_so(store: KeyStore) -> None:
    store.close()
    store.close()

    with pytest.raises(Unavailable, match="shutting down"):
        store.list()


def test_a_file_that_somebody_keeps_locked_is_unavailable_and_readable(store: KeyStore, path: Path, make: Callable[..., Key]) -> None:
    key = make(rpm=2)
    store._db.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(Unavailable, match="locked; try again") as refused:
            store.take_request(key.id)
        assert store.standing(key.id) is not None

    assert refused.value.retry_after_s == 1
    assert store.take_request(key.id) == Standing(2, 1, int(NOON) + 60)


def test_a_damaged_file_is_told(store: KeyStore, path: Path, make: Callable[..., Key]) -> None:
    make()
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with closing(KeyStore(path)) as other:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))

        with pytest.raises(MyLLMError, match="damaged"):
            other.list()


def test_a_damaged_file_is_an_error_and_not_a_file_without_keys(path: Path) -> None:
    """A server that took it for one would be open to everybody."""
    with closing(KeyStore(path)) as store:
        store.create("alice")
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)

    with closing(KeyStore(path)) as store, pytest.raises(MyLLMError, match=r"keys\.db is damaged"):
        Keyring(store)
