"""The verbs on installed models: `list`, `show`, `cp`, `import` and `rm`. They work on the disk, with or without a server.

A running server looks at the same disk each time, so it sees at once what is done here. Only `rm` asks it, if it is
there, because a loaded model must be unloaded first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from myllm.cli.home import complete_model, open_store, open_templates
from myllm.cli.terminal import can_ask, count, local_time, print_json, print_table, say, size
from myllm.errors import InvalidRequest, ModelNotFound, ServerUnreachable

if TYPE_CHECKING:
    from myllm.client import Client
    from myllm.store.store import InstalledModel

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The model.", autocompletion=complete_model)]


def list_models(as_json: AsJSON = False) -> None:
    """List the installed models.

    \b
    Example: myllm list
    """
    models = open_store("WARNING").list()
    if as_json:
        print_json({"models": [as_dict(model) for model in models]})
        return
    header = ("NAME", "SIZE", "PARAMETERS", "QUANTIZATION", "CONTEXT", "CAPABILITIES", "MODIFIED")
    print_table(header, [_row(model) for model in models])


def show(
    name: Name,
    template: Annotated[bool, typer.Option("--template", help="Print only the chat template.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Show what a model is: all that its file says, its parameters and template.

    \b
    Example: myllm show tiny
    """
    model = open_store().resolve(name)
    if template:
        say(open_templates().source(model) or "")
    elif as_json:
        print_json({**as_dict(model), "details": model.metadata})
    else:
        print_table(("", ""), [(key, _shown(value)) for key, value in _told(model).items() if value not in (None, {}, (), 0)])


def cp(source: Name, target: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Give a model another name. No file is copied.

    \b
    Example: myllm cp tiny my-model
    """
    say(f"'{open_store().copy(source, target).name}' is installed")


def import_file(
    file: Annotated[Path, typer.Argument(help="A .gguf file.")],
    name: Annotated[str | None, typer.Option(help="The model's name.", show_default="the file's")] = None,
) -> None:
    """Install a GGUF file where it lies. It is neither copied nor moved, and `rm` leaves it there.

    \b
    Example: myllm import ~/Downloads/llama-3.2-1b.gguf --name llama
    """
    model = open_store().import_file(file, name)
    say(f"'{model.name}' is installed: {_summary(model)}; try it with: myllm run {model.name}")


def rm(
    names: Annotated[list[str], typer.Argument(help="Models.", autocompletion=complete_model)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove models. A model that runs is unloaded first; files outside MYLLM_HOME stay where they are.

    \b
    Example: myllm rm my-model
    """
    from myllm.client import Client

    with Client() as client:
        models: _Models = client if _is_there(client) else _OnDisk()
        for name in [_whole_name(name, models.model(name).name) for name in names]:
            if yes or _agrees(name):
                models.delete_model(name)
                say(f"'{name}' is removed")


class _Models(Protocol):
    """Where models are found and removed: a server, or the disk."""

    def model(self, name: str) -> _Named: ...

    def delete_model(self, name: str) -> object: ...


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _OnDisk:
    def model(self, name: str) -> InstalledModel:
        return open_store().resolve(name)

    def delete_model(self, name: str) -> None:
        open_store().remove(name)


def _is_there(client: Client) -> bool:
    """Does a server answer? It may be one that is still starting."""
    try:
        client.status()
    except ServerUnreachable:
        return False
    return True


def _whole_name(written: str, found: str) -> str:
    """`found`, if it was spelled out: what a prefix or an alias happens to mean is not deleted."""
    from myllm.store.names import same_names

    if not same_names(written, [found]):
        raise ModelNotFound(f"model '{written}' not found; if you mean '{found}', write its whole name", param="name")
    return found


def _agrees(name: str) -> bool:
    if not can_ask():
        raise InvalidRequest(f"nobody is there to be asked whether to remove '{name}'; add --yes")
    return typer.confirm(f"Remove '{name}'?")


def as_dict(model: InstalledModel) -> dict[str, Any]:
    """A model for `--json`; fields that the HTTP API has too go by its names."""
    meta = model.metadata
    return {
        "name": model.name,
        "path": str(model.path),
        "source": model.source,
        "family": meta.architecture,
        "parameter_count": meta.parameter_count,
        "quantization": meta.quantization,
        "size_bytes": meta.size_bytes,
        "context_size": meta.context_length,
        "embedding_length": meta.embedding_length,
        "capabilities": model.capabilities,
        "template": open_templates().name(model),
        "parameters": meta.sampling_defaults | model.parameters,
        "license": meta.license,
        "digest": model.digest,
        "modified_at": model.modified_at.isoformat(),
    }


def _told(model: InstalledModel) -> dict[str, Any]:
    """What `show` tells a person: the fields of `--json`, and what lies deeper in the header."""
    meta = model.metadata
    title = {"title": meta.name} if meta.name != model.name else {}
    types = {kind: f"{share.count:,} ({size(share.num_bytes)})" for kind, share in meta.tensor_types.items()}
    shape = {"layers": meta.block_count, "heads": meta.head_count, "kv_heads": max(meta.head_count_kv, default=0)}
    text = {"sliding_window": meta.sliding_window, "tokenizer": meta.tokenizer_model, "vocabulary": meta.vocab_size}
    return {**as_dict(model), **title, **shape, **text, "tensors": types}


def _row(model: InstalledModel) -> tuple[str, ...]:
    meta = model.metadata
    what = (size(meta.size_bytes), count(meta.parameter_count), meta.quantization, f"{meta.context_length:,}")
    return (model.name, *what, " ".join(model.capabilities), local_time(model.modified_at.isoformat()))


def _summary(model: InstalledModel) -> str:
    meta = model.metadata
    return f"{meta.architecture}, {count(meta.parameter_count)} parameters, {meta.quantization}, {size(meta.size_bytes)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(value) if isinstance(value, tuple) else str(value)
