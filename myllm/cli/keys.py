"""`myllm keys`: who may use the server. The verbs work on the key file, with or without a server; one that runs sees it soon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from myllm.caller import Scope
from myllm.cli.models import AsJSON
from myllm.cli.terminal import local_time, note, print_json, print_table, say

if TYPE_CHECKING:
    from myllm.keys import Key, KeyStore

KeyName = Annotated[str, typer.Argument(help="The key's name, which owns the conversations that are made with it.")]

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys. While there is none, everybody may use the server.")


@app.command("create")
def create(
    name: KeyName,
    rpm: Annotated[int, typer.Option(help="Requests a minute; 0 is no limit.")] = 60,
    tpm: Annotated[int, typer.Option(help="Tokens a minute, of prompts and answers together; 0 is no limit.")] = 150_000,
    rpd: Annotated[int, typer.Option(help="Requests a day; 0 is no limit.")] = 3_500,
    scope: Annotated[Scope, typer.Option(help="inference: use models. admin: also load, pull and remove them, and see all.")] = "inference",
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    \b
    Example: myllm keys create alice --rpm 20 --tpm 50000
    """
    with open_keys() as store:
        is_first = not store.list()
        secret = store.create(name, scope=scope, rpm=rpm, tpm=tpm, rpd=rpd)
    say(secret)
    note("This is the only time that it is shown. Send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY';")
    note("the verbs of this program send the key that the environment variable MYLLM_API_KEY holds.")
    if is_first:
        note("It is the first key: from now on a server of this home answers only those who have one.")


@app.command("list")
@app.command("ls", hidden=True)
def list_keys(as_json: AsJSON = False) -> None:
    """List the keys: limits, scope, and when a request last counted.

    \b
    Example: myllm keys list
    """
    with open_keys() as store:
        keys = [as_dict(key) for key in store.list()]
    if as_json:
        print_json({"keys": keys})
        return
    header = ("NAME", "KEY", "SCOPE", "REQUESTS/MINUTE", "TOKENS/MINUTE", "REQUESTS/DAY", "CREATED", "LAST USED")
    print_table(header, [_row(key) for key in keys])


@app.command("revoke")
def revoke(name: KeyName) -> None:
    """Take a key back. A running server refuses it within seconds; its conversations stay.

    \b
    Example: myllm keys revoke alice
    """
    with open_keys() as store:
        store.revoke(name)
        is_last = not store.list()
    say(f"key '{name}' is revoked")
    if is_last:
        note("It was the last key: a server of this home that has no api_keys in its settings now answers everybody.")


@contextmanager
def open_keys() -> Iterator[KeyStore]:
    """The key file of this home."""
    from myllm.config import home_folder
    from myllm.keys import KeyStore

    store = KeyStore(home_folder() / "keys.db")
    try:
        yield store
    finally:
        store.close()


def as_dict(key: Key) -> dict[str, Any]:
    """A key for `--json`: all that may be known of it."""
    from myllm.sessions import iso_time

    return {
        "name": key.name,
        "prefix": key.prefix,
        "scope": key.scope,
        "rpm": key.rpm,
        "tpm": key.tpm,
        "rpd": key.rpd,
        "created_at": iso_time(key.created_at),
        "last_used_at": None if key.last_used_at is None else iso_time(key.last_used_at),
    }


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    limits = (f"{key[limit]:,}" if key[limit] else "no limit" for limit in ("rpm", "tpm", "rpd"))
    last_used = local_time(key["last_used_at"]) if key["last_used_at"] else "never"
    return (key["name"], f"{key['prefix']}…", key["scope"], *limits, local_time(key["created_at"]), last_used)
