"""The verbs on loaded models: `ps`, `load` and `stop`. A model is loaded in a server, so they need one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from myllm.cli.models import AsJSON, Name
from myllm.cli.terminal import print_json, print_table, say, size, waiting_for_model

if TYPE_CHECKING:
    from myllm.client.calls import JSON


def ps(as_json: AsJSON = False) -> None:
    """List the loaded models: memory, context, running and waiting requests.

    \b
    Example: myllm ps
    """
    from myllm.client import Client, calls

    with Client() as client:
        status = client.request(calls.status())
    if as_json:
        print_json(status)
        return
    header = ("NAME", "STATUS", "MEMORY", "ESTIMATE", "CONTEXT", "CELLS", "PARALLEL", "RUNNING", "WAITING", "TOKENS/S", "UNTIL")
    print_table(header, [_row(model) for model in status["models"]])


def load(
    name: Name,
    context: Annotated[int | None, typer.Option(help="Tokens of context, shared by all sequences.")] = None,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers on the GPU; -1 is all that fit.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Most sequences at once.")] = None,
    keep_alive: Annotated[str | None, typer.Option(help="How long it stays when nobody asks: 5m, 0, -1 for ever.")] = None,
    pin: Annotated[bool | None, typer.Option("--pin/--no-pin", help="Never unload it for another model.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Load a model now, so that the first question need not wait.

    \b
    Example: myllm load tiny --context 8192 --keep-alive 1h
    """
    from myllm.client import Client, LoadOptions, calls

    options = LoadOptions(context_size=context, gpu_layers=gpu_layers, parallel=parallel, keep_alive=keep_alive, pin=pin)
    with Client() as client, waiting_for_model(name, lambda: client.model(name).progress):
        answer = client.request(calls.load(name, options))
    _tell(answer, as_json)


def stop(name: Name, as_json: AsJSON = False) -> None:
    """Unload a model. Requests that it answers may finish.

    \b
    Example: myllm stop tiny
    """
    from myllm.client import Client, calls

    with Client() as client:
        answer = client.request(calls.unload(name))
    _tell(answer, as_json)


def _tell(answer: JSON, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(answer["message"])


def _row(model: JSON) -> tuple[str, ...]:
    if model["status"] == "waiting":
        return (model["name"], "waiting for room", "", *[""] * 5, str(model["waiting"]), "", "")
    if model["status"] != "loaded":
        return (model["name"], f"loading {model['progress']:.0%}", "", size(model["estimated_bytes"]), *[""] * 7)
    cells = f"{model['cells_used']:,}/{model['cells_total']:,}"
    numbers = (str(model[key]) for key in ("parallel", "running", "waiting", "tokens_per_second"))
    sizes = (size(model["memory_bytes"]), size(model["estimated_bytes"]), f"{model['context_size']:,}")
    return (model["name"], "loaded", *sizes, cells, *numbers, _until(model))


def _until(model: JSON) -> str:
    """When it will be unloaded if nobody asks."""
    if model["pinned"]:
        return "pinned"
    if model["expires_at"] is None:
        return "in use" if model["running"] or model["waiting"] else ""
    minutes, seconds = divmod(max(round(model["expires_at"] - time.time()), 0), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
