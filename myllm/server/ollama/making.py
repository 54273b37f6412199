"""What is told while a model is fetched or made: Ollama's steps, a line each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from msgspec import UNSET

from myllm.errors import InvalidRequest, ModelNotFound, MyLLMError
from myllm.model_builder import BuildProgress
from myllm.server.ollama.answers import ProgressAnswer
from myllm.server.ollama.bodies import CreateBody, parse_messages
from myllm.server.ollama.errors import ErrorAnswer, describe_midway
from myllm.server.ollama.names import is_valid
from myllm.server.streaming import encode_line
from myllm.store.create import NewModel
from myllm.store.pull_progress import Progress
from myllm.store.pull_task import PullTask

SUCCESS = ProgressAnswer(status="success")
NO_MANIFEST = "pull model manifest: file does not exist"
LETTERS_OF_DIGEST = 12
# Fields of `create` that ask for what is not here, and what to do instead.
NOT_TAKEN = {
    "modelfile": "is out of use; send what it says as 'from', 'files', 'system', 'template' and 'parameters'",
    "path": "is out of use; send the file as a blob and name it in 'files'",
    "draft_files": "is not supported; leave it out",
    "draft_quantize": "is not supported; leave it out",
    "renderer": "is not supported; send a 'template' in Jinja",
    "parser": "is not supported; leave it out",
    "requires": "is not supported; leave it out",
    "remote_host": "is not supported: this server runs its models itself",
    "info": "is not supported; a file says itself what it is",
}


def new_model(body: CreateBody, max_messages: int) -> NewModel:
    """Raises InvalidRequest that names the field."""
    if not is_valid(body.asked):
        raise InvalidRequest("invalid model name", param="model")
    for field, advice in NOT_TAKEN.items():
        if getattr(body, field):
            raise InvalidRequest(f"'{field}' {advice}", param=field)
    messages = body.messages or []
    if any(message.images or message.tool_calls for message in messages):
        raise InvalidRequest("'messages' of a model take 'role' and 'content' alone", param="messages")
    return NewModel(
        name=body.asked,
        source=body.from_model or None,
        files=body.files or {},
        adapters=body.adapters or {},
        template=body.template or None,
        system=body.system or None,
        parameters=body.parameters or {},
        messages=parse_messages(messages, max_messages),
        license="\n".join(body.license) if isinstance(body.license, list) else body.license or None,
        quantize=body.quantize or None,
    )


class Steps:
    """A model in the making: iterate for its steps."""

    def __init__(self, first: BuildProgress, rest: AsyncIterator[BuildProgress]) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[BuildProgress]:
        yield self._first
        async for step in self._rest:
            yield step


@asynccontextmanager
async def opened(building: AsyncGenerator[BuildProgress, None]) -> AsyncIterator[Steps]:
    """Entered when all that can be wrong with the request was not; leaving it early calls it off."""
    async with aclosing(building) as steps:
        yield Steps(await anext(steps), steps)


def render_step(steps: Steps, step: BuildProgress) -> bytes:
    return encode_line(step)


def render_broken(error: MyLLMError) -> bytes:
    """What ends a stream that broke."""
    return encode_line(ErrorAnswer(describe_midway(error)))


class PullLines:
    """One pull's lines. A model of several files is told as one layer, the first's."""

    def __init__(self) -> None:
        self._has_layer = False
        self._is_checked = False

    def begin(self, task: PullTask) -> bytes:
        return encode_line(ProgressAnswer(status="pulling manifest"))

    def render(self, task: PullTask, progress: Progress) -> bytes:
        match progress.status:
            case "downloading":
                return self._layer(progress)
            case "verifying":
                return b"" if self._is_checked else self._check(progress)
        # A reader that is slow has not seen every state on the way.
        layer = b"" if self._has_layer else self._layer(progress)
        return layer + encode_line(ProgressAnswer(status="writing manifest")) + encode_line(SUCCESS)

    def _layer(self, progress: Progress) -> bytes:
        self._has_layer = True
        name = progress.name if progress.digest is None else progress.digest.removeprefix("sha256:")[:LETTERS_OF_DIGEST]
        sizes: dict[str, Any] = {"total": progress.total, "completed": progress.completed or UNSET}
        return encode_line(ProgressAnswer(status=f"pulling {name}", digest=progress.digest or UNSET, **sizes))

    def _check(self, progress: Progress) -> bytes:
        self._is_checked = True
        return self._layer(progress) + encode_line(ProgressAnswer(status="verifying sha256 digest"))


def told_of_pull(error: ModelNotFound) -> ModelNotFound:
    """What is not there to be pulled, in the words that clients know."""
    return ModelNotFound(f"{NO_MANIFEST}: {error.message}", param="model")
