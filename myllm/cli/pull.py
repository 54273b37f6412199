"""The verbs that fetch models: `pull` and `update`. They work on the disk, with or without a server.

A server of the same home sees a new model at its next look, and where it pulls the same one at this moment, the two meet
at the file's lock and share the download. Going through the server would add a second way that can break, and would make
the person's Ctrl-C and token the server's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from myllm.cli.home import complete_model, open_store
from myllm.cli.terminal import note, say, show_error, size
from myllm.errors import InvalidRequest, MyLLMError

if TYPE_CHECKING:
    from myllm.cli.pull_display import Display
    from myllm.store.pull_progress import Report
    from myllm.store.store import InstalledModel

Fetch = Callable[[str, "Report", threading.Event], "InstalledModel"]
AT_ONCE = 3


def pull(
    names: Annotated[list[str], typer.Argument(help="A name of the catalogue, ORG/REPO[:QUANTISATION] or ORG/REPO/FILE.gguf.")],
) -> None:
    """Fetch models from the Hugging Face Hub. A pull that was cut goes on where it was.

    \b
    HF_TOKEN opens gated repositories, HF_ENDPOINT names a mirror.
    Example: myllm pull llama3.2:1b bartowski/Qwen2.5-7B-Instruct-GGUF:Q5_K_M
    """
    from myllm.store.pull import Puller

    _fetch_all(list(dict.fromkeys(names)), Puller(open_store()).pull, _describe)


def update(
    names: Annotated[list[str] | None, typer.Argument(help="Pulled models.", autocompletion=complete_model)] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were pulled.")] = False,
) -> None:
    """Ask the Hub for newer revisions of pulled models, and fetch what changed.

    \b
    Example: myllm update --all
    """
    from myllm.store.pull import Puller

    if bool(names) == every:
        raise InvalidRequest("name the models to update, or give --all")
    store = open_store()
    chosen = list(dict.fromkeys(names or [])) or [model.name for model in store.list() if store.origin(model.name)]
    before = {name: origin.checksums for name in chosen if (origin := store.origin(store.resolve(name).name))}

    def tell(name: str, model: InstalledModel) -> str:
        origin = store.origin(model.name)
        is_same = origin is not None and before.get(name) == origin.checksums
        return f"'{model.name}' is up to date" if is_same else f"'{model.name}' is updated"

    _fetch_all(chosen, Puller(store).update, tell)


def _describe(name: str, model: InstalledModel) -> str:
    return f"'{model.name}' is installed ({size(model.metadata.size_bytes)}); try it with: myllm run {model.name}"


def _fetch(fetch: Fetch, name: str, display: Display, stop: threading.Event) -> InstalledModel:
    report = display.report(name)
    try:
        return fetch(name, report, stop)
    except MyLLMError:
        display.fail(name)
        raise


def _fetch_all(names: Sequence[str], fetch: Fetch, tell: Callable[[str, InstalledModel], str]) -> None:
    """A few at a time. One that fails keeps no other from being fetched; exits with 1 then."""
    from concurrent.futures import ThreadPoolExecutor, wait

    from myllm.cli.pull_display import open_display

    stop = threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            with open_display() as display:
                running = {name: pool.submit(_fetch, fetch, name, display, stop) for name in names}
                wait(running.values())
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            note("stopped; the next pull goes on from here")
            raise
    for name, future in running.items():
        if future.exception() is None:
            say(tell(name, future.result()))
    errors = [error for future in running.values() if (error := future.exception())]
    for error in errors:
        if not isinstance(error, MyLLMError):
            raise error
        show_error(error.message)
    if errors:
        raise typer.Exit(1)
