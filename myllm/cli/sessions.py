"""`myllm sessions`: the conversations that the server stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myllm.cli.models import AsJSON
from myllm.cli.terminal import can_ask, local_time, print_json, print_table, say
from myllm.cli.transcript import as_json as transcript_as_json, as_markdown, save, speak
from myllm.errors import InvalidRequest

SessionID = Annotated[str, typer.Argument(metavar="ID", help="The session; `myllm sessions list` tells the ids.")]

app = typer.Typer(no_args_is_help=True, help="List, read, copy, remove and export stored conversations.")


@app.command("list")
@app.command("ls", hidden=True)
def list_sessions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    as_json: AsJSON = False,
) -> None:
    """List the conversations, newest first.

    \b
    Example: myllm sessions list --limit 5
    """
    from myllm.client import Client, calls

    with Client() as client:
        sessions = client.request(calls.sessions(limit, 0))["sessions"]
    if as_json:
        print_json({"sessions": sessions})
        return
    rows = [(s["id"], s["title"] or "", s["model"], str(s["num_messages"]), local_time(s["updated_at"])) for s in sessions]
    print_table(("ID", "TITLE", "MODEL", "MESSAGES", "UPDATED"), rows)


@app.command("show")
def show(session_id: SessionID, as_json: AsJSON = False) -> None:
    """Print a conversation.

    \b
    Example: myllm sessions show 5a3c1c1e-6d2a-4b67-9f3e-2f6f0c9b7a10
    """
    from myllm.client import Client, calls

    with Client() as client:
        session = client.request(calls.read_session(session_id))
    if as_json:
        print_json(session)
        return
    say(f"{session['title'] or session['id']}  ({session['model']}, {local_time(session['updated_at'])})\n", bold=True)
    speak(session["messages"])


@app.command("fork")
def fork(
    session_id: SessionID,
    at: Annotated[int | None, typer.Option(min=1, metavar="N", help="Take over only the first N messages.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Copy a conversation, to go on from there in another way. Prints the new id.

    \b
    Example: myllm sessions fork ID --at 2
    """
    from myllm.client import Client, calls

    with Client() as client:
        forked = client.request(calls.fork_session(session_id, at))
    if as_json:
        print_json(forked)
    else:
        say(forked["id"])


@app.command("rm")
def rm(
    session_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sessions.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget conversations for good.

    \b
    Example: myllm sessions rm ID
    """
    from myllm.client import Client

    with Client() as client:
        for session_id in session_ids:
            title = client.read_session(session_id).title
            if yes or _agrees(session_id, title):
                client.delete_session(session_id)
                say(f"session {session_id} is removed")


@app.command("export")
def export(
    session_id: SessionID,
    file: Annotated[Path | None, typer.Argument(help="A new file; .json is JSON, else Markdown.", show_default="stdout")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, where no FILE is named.")] = False,
) -> None:
    """Write a conversation as Markdown or JSON.

    \b
    Example: myllm sessions export ID talk.md
    """
    from myllm.client import Client, calls

    with Client() as client:
        session = client.request(calls.read_session(session_id))
    if file is None:
        typer.echo(transcript_as_json(session) if as_json else as_markdown(session), nl=False)
    else:
        save(session, file)


def _agrees(session_id: str, title: str | None) -> bool:
    if not can_ask():
        raise InvalidRequest(f"nobody is there to be asked whether to remove session {session_id}; add --yes")
    return typer.confirm(f"Remove session {session_id} ({title})?" if title else f"Remove session {session_id}?")
