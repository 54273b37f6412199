"""`ResponseRun`: one response in the making, from the accepted request to the stored answer.

It renders the response as it stands, alone or as the events of a stream, and keeps it: a response that is to be stored is
stored before the client is told that it is complete, so that the next request can go on from it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from msgspec import UNSET

from myllm.caller import Caller
from myllm.errors import InvalidRequest, MyLLMError, RateLimited
from myllm.once import Once
from myllm.reply import Reply
from myllm.server.openai.logprobs import chat_logprobs
from myllm.server.openai.render import unloaded
from myllm.server.openai.responses_answers import (
    CachedTokens,
    Completed,
    ContentPartAdded,
    ContentPartDone,
    Created,
    Failed,
    Incomplete,
    IncompleteDetails,
    InProgress,
    OutputItemAdded,
    OutputItemDone,
    OutputMessage,
    OutputText,
    OutputTextDone,
    ReasoningTokens,
    ResponseAnswer,
    ResponseError,
    ResponseUsage,
    Status,
)
from myllm.server.openai.responses_bodies import ResponsesBody, chat_request, parse_input
from myllm.server.streaming import encode_named_event
from myllm.service import Service
from myllm.sessions import NewResponse, Reply as ReplyRecord, StoredResponse
from myllm.types import ChatRequest, Event, FinishReason, Message, TextDelta, Usage

_encode = msgspec.json.Encoder().encode

FINAL: dict[FinishReason, Status] = {FinishReason.STOP: "completed", FinishReason.LENGTH: "incomplete"}


class ResponseRun:
    """previous: the response that this one goes on from. Raises InvalidRequest for a body that cannot be honoured."""

    def __init__(self, service: Service, caller: Caller, body: ResponsesBody, previous: StoredResponse | None) -> None:
        body.check()
        self.service = service
        self.caller = caller
        self.body = body
        self.previous = previous
        self.id = f"resp_{secrets.token_hex(24)}"
        self.created_at = int(time.time())
        self.brought = parse_input(body, service.settings.max_messages)
        self.chat: ChatRequest = chat_request(body, previous.messages if previous else (), self.brought)
        self._item_id = f"msg_{secrets.token_hex(24)}"
        self._reply: Reply | None = None
        self._stored = Once(self._store)
        self._error: MyLLMError | None = None
        self._final: ResponseAnswer | None = None
        self._num_events = 0
        place = f'"item_id":"{self._item_id}","output_index":0,"content_index":0'.encode()
        self._delta_head = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",' + place + b',"delta":'

    async def finish(self) -> ResponseAnswer:
        """The whole response. Raises Unavailable where the model was unloaded over it."""
        async with self._chat() as reply:
            self._reply = reply
            await reply.finish()
            if reply.finish_reason is FinishReason.CANCELLED:
                raise unloaded()
            await self._keep(reply)
        return self.answer(reply)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Reply]:
        """The reply to stream. What was said is kept also where the client leaves, or something breaks, in the middle of it."""
        async with self._chat() as reply:
            self._reply = reply
            reply.on_end(lambda: self._keep(reply))
            try:
                yield reply
            finally:
                await self._keep(reply)

    @asynccontextmanager
    async def _chat(self) -> AsyncIterator[Reply]:
        async with AsyncExitStack() as stack:
            try:
                reply = await stack.enter_async_context(self.service.chat(self.chat, self.caller))
            except InvalidRequest as error:
                if error.param == "messages":  # the engine's word for what came as `input`
                    error.param = "input"
                raise
            yield reply

    def begin(self, reply: Reply) -> bytes:
        """The events before the first token."""
        begun = OutputMessage(self._item_id, "in_progress", [])
        return b"".join(
            [
                encode_named_event(Created(self._answer(reply, "in_progress"), self._next())),
                encode_named_event(InProgress(self._answer(reply, "in_progress"), self._next())),
                encode_named_event(OutputItemAdded(begun, self._next())),
                encode_named_event(ContentPartAdded(self._item_id, OutputText(""), self._next())),
            ]
        )

    def render(self, reply: Reply, events: list[Event]) -> bytes:
        return b"".join(self._delta(event) if isinstance(event, TextDelta) else self._ending(reply) for event in events)

    def render_error(self, error: MyLLMError) -> bytes:
        """The event that ends a stream which broke."""
        assert self._reply is not None  # before the stream began, errors have a status
        self._error, self._final = error, None
        return encode_named_event(Failed(self.answer(self._reply), self._next()))

    def answer(self, reply: Reply) -> ResponseAnswer:
        """The response now that the reply has ended, however it did."""
        if self._final is None:
            if self._error is None and reply.finish_reason is FinishReason.CANCELLED:
                self._error = unloaded()
            ended = "cancelled" if reply.finish_reason is None else FINAL.get(reply.finish_reason, "failed")
            self._final = self._answer(reply, "failed" if self._error else ended)
        return self._final

    def _answer(self, reply: Reply, status: Status) -> ResponseAnswer:
        body, is_running = self.body, status == "in_progress"
        return ResponseAnswer(
            id=self.id,
            created_at=self.created_at,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            error=self._told_error(),
            incomplete_details=IncompleteDetails("max_output_tokens") if status == "incomplete" else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=reply.model,
            output=[] if is_running or not (reply.text or reply.finish_reason) else [self._message(reply)],
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=body.previous_response_id,
            prompt_cache_key=body.prompt_cache_key,
            safety_identifier=body.safety_identifier,
            store=body.is_stored,
            temperature=self.chat.sampling["temperature"],
            tool_choice=body.tool_choice or "auto",
            top_logprobs=body.top_logprobs or 0,
            top_p=self.chat.sampling["top_p"],
            truncation=body.truncation or "disabled",
            usage=None if is_running else _usage(reply.usage_so_far),
            user=body.user,
            truncated_messages=reply.truncated_messages or UNSET,
        )

    def _message(self, reply: Reply) -> OutputMessage:
        text = OutputText(reply.text, logprobs=chat_logprobs(reply.logprobs).content)
        return OutputMessage(self._item_id, "completed" if reply.finish_reason is FinishReason.STOP else "incomplete", [text])

    def _told_error(self) -> ResponseError | None:
        if self._error is None:
            return None
        return ResponseError("rate_limit_exceeded" if isinstance(self._error, RateLimited) else "server_error", self._error.message)

    async def _keep(self, reply: Reply) -> None:
        """Store the response, once, and to the end if the client leaves over it; not where nothing was said before it broke off."""
        if self.body.is_stored and (reply.text or reply.finish_reason in FINAL):
            await self._stored()

    async def _store(self) -> None:
        assert self._reply is not None
        reply = self._reply
        record = ReplyRecord(reply.finish_reason or FinishReason.CANCELLED, reply.model, reply.usage_so_far)
        response = NewResponse(
            id=self.id,
            previous=self.previous.id if self.previous else None,
            messages=self.brought,
            answer=Message("assistant", reply.text),
            reply=record,
            body=_encode(self.answer(reply)).decode(),
        )
        await self.service.add_response(response, self.previous.session_id if self.previous else None, self.caller)

    def _delta(self, event: TextDelta) -> bytes:
        logprobs = _encode(chat_logprobs(event.logprobs).content) if event.logprobs else b"[]"
        return b'%b%b,"logprobs":%b,"sequence_number":%d}\n\n' % (self._delta_head, _encode(event.text), logprobs, self._next())

    def _ending(self, reply: Reply) -> bytes:
        final = self.answer(reply)
        if final.status == "failed":
            return encode_named_event(Failed(final, self._next()))
        (item,) = final.output
        (text,) = item.content
        last = Completed if final.status == "completed" else Incomplete
        return b"".join(
            [
                encode_named_event(OutputTextDone(self._item_id, text.text, text.logprobs, self._next())),
                encode_named_event(ContentPartDone(self._item_id, text, self._next())),
                encode_named_event(OutputItemDone(item, self._next())),
                encode_named_event(last(final, self._next())),
            ]
        )

    def _next(self) -> int:
        self._num_events += 1
        return self._num_events - 1


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        usage.prompt_tokens, CachedTokens(usage.cached_tokens), usage.completion_tokens, ReasoningTokens(), usage.total_tokens
    )
