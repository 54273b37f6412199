"""`Conversation`: one session on the server, as the terminal holds it: which model answers, with which options.

The terminal chooses the session's id itself, so that it knows it even when the first answer was stopped half-way.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from myllm.cli.terminal import waiting_for_model
from myllm.client import Answer, Client, Stream, calls
from myllm.client.calls import JSON
from myllm.errors import InvalidRequest, NotFound


class Conversation:
    """Questions and answers under one session id. `system` opens a session that has no message yet."""

    def __init__(self, client: Client, model: str, *, session_id: str | None = None, options: JSON | None = None) -> None:
        self.client = client
        self.model = model
        self.options: dict[str, Any] = options or {}
        self.system: str | None = None
        self.id = session_id or str(uuid.uuid4())
        self.has_begun = session_id is not None and self._is_stored()

    def restart(self, session_id: str | None = None) -> None:
        """Go on in another session; None is a new one."""
        self.id = session_id or str(uuid.uuid4())
        self.has_begun = session_id is not None and self._is_stored()

    def open_with(self, system: str | None) -> None:
        """Set the system message. Raises InvalidRequest where the conversation has begun with another, or without."""
        if system is not None and self.has_begun:
            raise InvalidRequest(f"session {self.id} has begun already; a system message opens a new one")
        self.system = system

    @contextmanager
    def ask(self, text: str) -> Iterator[Stream[str, Answer]]:
        """The answer to `text`; leaving early stops it. Its first byte comes when the model is loaded."""
        answer = self.client.chat_stream(self.model, self._messages(text), session_id=self.id, **self.options)
        with waiting_for_model(self.model, self._progress) as end_waiting, answer:
            self.has_begun = True
            end_waiting()
            yield answer

    def ask_whole(self, text: str) -> JSON:
        """The server's whole answer as it is."""
        return self.client.request(calls.chat(self.model, self._messages(text), self.id, self.options))

    def load(self) -> None:
        """Load the model, telling how far it is."""
        with waiting_for_model(self.model, self._progress):
            self.client.load(self.model)

    def messages(self) -> list[JSON]:
        """What was said so far, as the server stores it."""
        return self.stored()["messages"] if self.has_begun else []

    def stored(self) -> JSON:
        """The session as the server stores it. Raises SessionNotFound before the first answer."""
        return self.client.request(calls.read_session(self.id))

    def take_back(self) -> str | None:
        """Go on in a new session that ends before the last question; returns that question, None if there is none."""
        messages = self.messages()
        last = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None:
            return None
        self.restart(self.client.fork_session(self.id, last).id if last else None)
        return str(messages[last]["content"])

    def _messages(self, text: str) -> list[JSON]:
        opening = [{"role": "system", "content": self.system}] if self.system and not self.has_begun else []
        return [*opening, {"role": "user", "content": text}]

    def _progress(self) -> float | None:
        return self.client.model(self.model).progress

    def _is_stored(self) -> bool:
        try:
            self.stored()
        except NotFound:
            return False
        return True
