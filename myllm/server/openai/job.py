"""A `Job`: what one request asked for, checked and ready to run, whichever way its answer travels.

An HTTP answer, a stream of events and a WebSocket run the same job; only what carries the bytes is theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from myllm.caller import Caller
from myllm.errors import InvalidRequest
from myllm.reply import Choices, Reply, together
from myllm.server.openai.answers import ChatAnswer, CompletionAnswer
from myllm.server.openai.bodies import ChatBody, CompletionBody, parse_chat, parse_completion
from myllm.server.openai.chunks import ChatChunks, Chunks, CompletionChunks
from myllm.server.openai.errors import tell_of_prompt
from myllm.server.openai.identity import Identity
from myllm.server.openai.render import render_chat, render_completion
from myllm.service import Service
from myllm.types import CompletionRequest

Opening = Callable[[], AbstractAsyncContextManager[Choices]]


class Job:
    """identity: what the answer will be known by. chunks: of its stream. keep_alive_s: the stay that was asked for the model.

    open: the context in which all answers run; whatever can be refused is refused on entering it.
    """

    def __init__(
        self,
        identity: Identity,
        open: Opening,
        render: Callable[[Choices], ChatAnswer | CompletionAnswer],
        chunks: Chunks,
        keep_alive_s: float | None,
    ) -> None:
        self.identity = identity
        self.open = open
        self.chunks = chunks
        self.keep_alive_s = keep_alive_s
        self._render = render

    async def finish(self) -> ChatAnswer | CompletionAnswer:
        """The whole answer."""
        async with self.open() as choices:
            await choices.finish()
            return self._render(choices)


def chat_job(service: Service, caller: Caller, body: ChatBody, streams: bool) -> Job:
    """Raises InvalidRequest."""
    requests = parse_chat(body, streams, service.settings.max_messages)
    identity = Identity.new("chatcmpl")
    opens = [partial(service.chat, request, caller) for request in requests]
    return Job(
        identity, lambda: together(opens), partial(render_chat, body, identity), ChatChunks(body, identity), requests[0].keep_alive_s
    )


def completion_job(service: Service, caller: Caller, body: CompletionBody, streams: bool) -> Job:
    """Raises InvalidRequest."""
    requests = parse_completion(body, streams)
    identity = Identity.new("cmpl")
    echoes: list[str] = []  # of each prompt, once the job has been opened: only the model can read a prompt of tokens

    @asynccontextmanager
    async def open() -> AsyncIterator[Choices]:
        prompts = [request.prompt for request in requests[:: body.num_candidates]]
        echoes.extend([await _text_of(service, body.model, prompt) if body.echo else "" for prompt in prompts])
        async with together([partial(_complete, service, request, caller) for request in requests]) as choices:
            yield choices

    chunks, render = CompletionChunks(body, identity, echoes), partial(render_completion, body, echoes, identity)
    return Job(identity, open, render, chunks, requests[0].keep_alive_s)


@asynccontextmanager
async def _complete(service: Service, request: CompletionRequest, caller: Caller) -> AsyncIterator[Reply]:
    async with AsyncExitStack() as stack:
        try:
            reply = await stack.enter_async_context(service.complete(request, caller))
        except InvalidRequest as error:
            tell_of_prompt(error)
            raise
        yield reply


async def _text_of(service: Service, model: str, prompt: str | tuple[int, ...]) -> str:
    if isinstance(prompt, str):
        return prompt
    try:
        return await service.detokenize(model, list(prompt))
    except InvalidRequest as error:
        tell_of_prompt(error)
        raise
