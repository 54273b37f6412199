"""From a body's bytes to a job: what a request asks for, which kind of answer it gets, and how it travels.

The service prefixes take more: a body may be wrapped in `payload`, `messages` may be one string, and `/completions` with
`messages` answers as a chat.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import HTTPConnection

from myllm.errors import InvalidRequest
from myllm.server.bodies import decode
from myllm.server.callers import caller_of, check_keep_alive, note_user
from myllm.server.openai.bodies import ChatBody, CompletionBody, EmbeddingsBody
from myllm.server.openai.job import Job, chat_job, completion_job
from myllm.server.openai.messages import MessageBody
from myllm.server.openai.service_models import ServiceModels
from myllm.service import Service


class ServiceChatBody(ChatBody, kw_only=True):
    """A plain string is one message of the user."""

    messages: str | Annotated[list[MessageBody], Meta(min_length=1)]  # type: ignore[assignment]  # wider; with_list narrows it

    def with_list(self) -> ServiceChatBody:
        if isinstance(self.messages, str):
            self.messages = [MessageBody("user", self.messages)]
        return self


class _Wrapping(Struct):
    payload: msgspec.Raw | UnsetType = UNSET


class _Kind(Struct):
    messages: msgspec.Raw | UnsetType = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET


class Requests:
    """offered: the models of the service whose prefix this is; None is all models, and OpenAI's own bodies."""

    def __init__(self, service: Service, offered: ServiceModels | None) -> None:
        self.service = service
        self.offered = offered

    async def chat(self, raw: bytes, connection: HTTPConnection, *, streams: bool = False) -> tuple[Job, bool]:
        """The job and whether it streams, which it does unasked where `streams` is True."""
        body = self.decode_chat(raw)
        streams = streams if body.stream is None else body.stream
        await self.check_model(body.model)
        return self._noted(chat_job(self.service, caller_of(connection), body, streams), body, connection), streams

    async def completion(self, raw: bytes, connection: HTTPConnection) -> tuple[Job, bool]:
        if self.offered and self._is_chat(raw):
            return await self.chat(raw, connection)
        body = decode(self.unwrapped(raw), CompletionBody)
        streams = bool(body.stream)
        await self.check_model(body.model)
        return self._noted(completion_job(self.service, caller_of(connection), body, streams), body, connection), streams

    def decode_chat(self, raw: bytes) -> ChatBody:
        return decode(self.unwrapped(raw), ServiceChatBody).with_list() if self.offered else decode(raw, ChatBody)

    def decode_embeddings(self, raw: bytes) -> EmbeddingsBody:
        return decode(self.unwrapped(raw), EmbeddingsBody)

    def unwrapped(self, raw: bytes) -> bytes:
        if self.offered is None:
            return raw
        payload = decode(raw, _Wrapping).payload
        if payload is UNSET:
            return raw
        if not bytes(payload).startswith(b"{"):
            raise InvalidRequest("'payload' takes an object: the body that is wrapped in it", param="payload")
        return bytes(payload)

    def _is_chat(self, raw: bytes) -> bool:
        kind = decode(self.unwrapped(raw), _Kind)
        return kind.messages is not UNSET and kind.prompt is UNSET

    async def check_model(self, name: str) -> None:
        """Raises ModelNotFound for a model that the service does not offer; where all are, running the job tells."""
        if self.offered is not None:
            await self.offered.resolve(self.service, name)

    @staticmethod
    def _noted(job: Job, body: ChatBody | CompletionBody, connection: HTTPConnection) -> Job:
        check_keep_alive(connection, job.keep_alive_s)
        note_user(job.identity.id, body.user, connection)
        return job
