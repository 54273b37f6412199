"""A conversation to read: on the terminal, as Markdown, or as a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from myllm.cli.terminal import local_time, say
from myllm.errors import MyLLMError

if TYPE_CHECKING:
    from myllm.client.calls import JSON

_COLOURS = {"user": "cyan", "system": "yellow", "assistant": "green"}


def speak(messages: Iterable[dict[str, Any]]) -> None:
    """Each message under its role."""
    for message in messages:
        typer.secho(message["role"], fg=_COLOURS.get(message["role"]), bold=True)
        say(f"{message['content']}\n")


def as_markdown(session: JSON) -> str:
    """The title, where it comes from, and the messages under their roles."""
    origin = f"{session['model']}, {local_time(session['created_at'])}, session {session['id']}"
    turns = "\n\n".join(f"**{message['role']}**\n\n{message['content']}" for message in session["messages"])
    return f"# {session['title'] or 'Conversation'}\n\n{origin}\n\n{turns}\n"


def as_json(session: JSON) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(session), indent=2).decode() + "\n"


def save(session: JSON, file: Path) -> None:
    """JSON if the file's name ends so, else Markdown. Raises MyLLMError; a file that is there is left as it is."""
    text = as_json(session) if file.suffix == ".json" else as_markdown(session)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise MyLLMError(f"{file} exists already; choose another name") from None
    except OSError as exc:
        raise MyLLMError(f"{file} cannot be written: {exc.strerror}") from exc
