"""`myllm`: the verbs put together, and the one place where their errors become a line and an exit code.

Exit codes: 0, 1 for an error that was told in one line, 2 for a command line that is not understood (typer's), 130 after
Ctrl-C. Nothing heavy is imported here or at the top of a verb's file: each verb imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from myllm import __version__
from myllm.cli import keys, loaded, models, pull, run, serve, sessions
from myllm.cli.terminal import show_error
from myllm.errors import MyLLMError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"myllm {__version__}")
        raise typer.Exit


@app.callback()
def myllm(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Serve GGUF models on this machine and talk to them.

    \b
    Start a server with `myllm serve`, then in another terminal: `myllm run tiny`
    """


app.command("serve")(serve.serve)
app.command("run")(run.run)
app.command("list")(models.list_models)
app.command("ls", hidden=True)(models.list_models)
app.command("ps")(loaded.ps)
app.command("show")(models.show)
app.command("load")(loaded.load)
app.command("stop")(loaded.stop)
app.command("pull")(pull.pull)
app.command("update")(pull.update)
app.command("rm")(models.rm)
app.command("cp")(models.cp)
app.command("import")(models.import_file)
app.add_typer(sessions.app, name="sessions")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """The entry point."""
    try:
        app()
    except MyLLMError as error:
        show_error(error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
