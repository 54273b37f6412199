"""`myllm run`: one question and its answer, or the way into the interactive chat.

The answer is all that goes to stdout, so it can be piped on; remarks and the loading line go to stderr.
"""

from __future__ import annotations

import stat
import sys
from os import fstat
from typing import Annotated

import typer

from myllm.cli.answer import clean, stream_answer
from myllm.cli.home import complete_model
from myllm.cli.terminal import can_ask, print_json


def run(
    name: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_model)],
    prompt: Annotated[str | None, typer.Argument(help="The question; without it, an interactive chat.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Go on in this conversation.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model shall know before the first question.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is the likeliest answer, up to 2 wilder ones.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Pick from the likeliest tokens that together have this probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Pick from so many of the likeliest tokens; 0 is all.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer again.")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End the answer before this text; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's whole answer as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell tokens per second after an answer.")] = False,
) -> None:
    """Ask a model, or chat with it.

    With PROMPT, or with text piped in, it prints the answer and ends. Text that is piped in follows PROMPT.

    \b
    Examples: myllm run tiny
              myllm run tiny "What is the capital of France?"
              myllm run tiny "Summarise this text:" < letter.txt
    """
    from myllm.cli.conversation import Conversation
    from myllm.client import Client

    question = join_question(prompt, piped_text())
    if question is None and (as_json or not can_ask()):
        raise typer.BadParameter("there is nothing to ask: give a PROMPT or pipe one in", param_hint="PROMPT")
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens, "seed": seed, "stop": stop or None}
    options = {option: value for option, value in given.items() if value is not None}
    with Client() as client:
        conversation = Conversation(client, name, session_id=session, options=options)
        conversation.open_with(system and clean(system))
        if question is None:
            from myllm.cli.chat import Chat

            Chat(conversation, is_verbose=verbose).run()
        elif as_json:
            print_json(conversation.ask_whole(question))
        else:
            stream_answer(conversation, question, is_verbose=verbose)


def piped_text() -> str | None:
    """What a pipe or a file brings on stdin; None where nobody meant to bring anything."""
    try:
        mode = fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed
        return None
    if stat.S_ISCHR(mode):  # a terminal, or the null device
        return None
    return sys.stdin.buffer.read().decode(errors="replace")


def join_question(prompt: str | None, piped: str | None) -> str | None:
    parts = [part for part in (prompt, piped.strip("\n") if piped else None) if part]
    return clean("\n\n".join(parts)) if parts else None
