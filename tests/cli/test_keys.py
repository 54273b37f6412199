"""`myllm keys`, without a server, and the other verbs at a server that asks for one."""

from __future__ import annotations

import json
import re
import stat
from contextlib import closing

import pytest
from cli.programs import Server, environment, run

from myllm.keys import KeyStore

SECRET = re.compile(r"sk-myllm-[A-Za-z0-9_-]{43}\n")


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server that takes two keys: `given` may do everything, the other one uses models."""
    folder = tmp_path_factory.mktemp("locked")
    with closing(KeyStore(folder / "home" / "keys.db")) as store:
        secret = store.create("alice")
    server = Server(folder / "home", folder / "log", "--api-key", "given")
    server.secret = secret
    yield server
    server.end()


def test_create_prints_the_key_alone_on_a_line_and_the_rest_to_stderr(alone, tmp_path):
    created = alone("keys", "create", "alice")

    assert SECRET.fullmatch(created.stdout)
    assert "the only time" in created.stderr and "MYLLM_API_KEY" in created.stderr and "first key" in created.stderr
    with closing(KeyStore(tmp_path / "home" / "keys.db")) as store:
        key = store.find(created.stdout.strip().encode())
    assert (key.name, key.scope, key.rpm, key.tpm, key.rpd) == ("alice", "inference", 60, 150_000, 3_500)


def test_limits_and_scope_are_what_was_said_and_the_key_itself_is_told_no_more(alone):
    secret = alone("keys", "create", "boss", "--rpm", "0", "--tpm", "10", "--rpd", "7", "--scope", "admin").stdout.strip()
    second = alone("keys", "create", "alice")

    listed, table = json.loads(alone("keys", "list", "--json").stdout)["keys"], alone("keys", "list").stdout

    assert [key["name"] for key in listed] == ["boss", "alice"]
    assert listed[0].pop("created_at").endswith("Z")
    assert listed[0] == {"name": "boss", "prefix": secret[:13], "scope": "admin", "rpm": 0, "tpm": 10, "rpd": 7, "last_used_at": None}
    assert table.splitlines()[1].split()[:7] == ["boss", f"{secret[:13]}…", "admin", "no", "limit", "10", "7"]
    assert secret not in table and "first key" not in second.stderr


def test_an_empty_list_is_no_error(alone):
    assert json.loads(alone("keys", "list", "--json").stdout) == {"keys": []}
    assert alone("keys", "list").stdout.split()[0] == "NAME"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create", "a b"], "a key's name takes 1 to 64 letters"),
        (["create", "alice", "--rpm", "-1"], "rpm is -1, it takes 0 (no limit)"),
        (["create", "taken"], "there is a key 'taken' already"),
        (["revoke", "nobody"], "there is no key 'nobody'; there are: taken"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, reason, alone):
    alone("keys", "create", "taken")

    refused = alone("keys", *arguments)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ") and reason in refused.stderr and refused.stderr.count("\n") == 1


def test_an_unknown_scope_is_a_misunderstood_command_line(alone):
    assert alone("keys", "create", "alice", "--scope", "root").returncode == 2


def test_the_last_key_that_is_revoked_opens_the_server_and_that_is_said(alone):
    alone("keys", "create", "alice")
    alone("keys", "create", "bob")

    first, last = alone("keys", "revoke", "alice"), alone("keys", "revoke", "bob")

    assert (first.stdout, first.stderr) == ("key 'alice' is revoked\n", "")
    assert last.stdout == "key 'bob' is revoked\n" and "answers everybody" in last.stderr


def test_only_the_user_may_read_the_file(alone, tmp_path):
    alone("keys", "create", "alice")

    assert stat.S_IMODE((tmp_path / "home" / "keys.db").stat().st_mode) == 0o600


def test_a_verb_sends_the_key_of_the_environment(locked):
    env = environment(locked.home, locked.url)

    without, wrong = run(["ps"], env), run(["ps"], env | {"MYLLM_API_KEY": "wrong"})
    right, given = run(["ps"], env | {"MYLLM_API_KEY": f" {locked.secret} "}), run(["ps"], env | {"MYLLM_API_KEY": "given"})

    assert [done.returncode for done in (without, wrong, right, given)] == [1, 1, 0, 0]
    assert "needs an API key" in without.stderr and "set MYLLM_API_KEY to a key" in without.stderr
    assert "none of this server's, or was revoked" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_a_verb_that_the_key_does_not_cover_tells_the_scope(locked):
    refused = run(["load", "tiny"], environment(locked.home, locked.url) | {"MYLLM_API_KEY": locked.secret})

    assert refused.returncode == 1
    assert "has the scope 'inference' and may not load models" in refused.stderr


@pytest.mark.parametrize("key", ["schlüssel", "top\nsecret"])
def test_a_key_that_no_header_can_carry_is_one_line_without_the_key(key, alone, tmp_path):
    refused = run(["ps"], environment(tmp_path, "http://127.0.0.1:1") | {"MYLLM_API_KEY": key})

    assert refused.returncode == 1
    assert "characters that no header can carry" in refused.stderr
    assert key not in refused.stderr and refused.stderr.count("\n") == 1


def test_verbs_on_the_disk_do_not_mind_the_key_of_the_environment(alone, tmp_path):
    listed = run(["list"], environment(tmp_path / "home") | {"MYLLM_API_KEY": "given"})

    assert (listed.returncode, listed.stderr) == (0, "")


def test_the_greeting_of_a_server_with_keys_shows_where_the_key_goes(locked):
    assert "-H 'Authorization: Bearer KEY'" in locked.greeting
    assert "MYLLM_API_KEY" in locked.greeting
    assert "given" not in locked.greeting and locked.secret not in locked.greeting


def test_a_server_that_has_only_a_clients_key_warns(tmp_path):
    server = Server(tmp_path / "home", tmp_path / "log", env={"MYLLM_API_KEY": "secret"})
    server.stop()

    assert "MYLLM_API_KEY is what clients send, and no key is configured here" in server.log.read_text()
    assert "secret" not in server.log.read_text()
