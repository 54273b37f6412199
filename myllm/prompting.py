"""`Prompter`: a chat's messages → the prompt of one model, with what was laid over the model and within its context.

What its maker put before every chat (a system text, example turns), the model's template, and which of a history's oldest turns
go where it does not fit: all that stands between the messages of a request and the worker.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from myllm.chat.library import TemplateLibrary
from myllm.chat.template import ChatTemplate
from myllm.chat.thoughts import opens_thought
from myllm.chat.trimming import drop_oldest, droppable, first_likely, num_leading_system
from myllm.config import Settings
from myllm.context_window import Fitted, Window
from myllm.errors import InvalidRequest, UnsupportedByModel
from myllm.loaded_model import ModelLease
from myllm.model_templates import ModelTemplates
from myllm.reply import Rendered
from myllm.store.store import InstalledModel
from myllm.types import ChatRequest, Message, Prompt, SamplingParams, Span
from myllm.worker.handle import Worker


class Prompter:
    """Keeps each worker's template compiled as long as the worker lives."""

    def __init__(self, settings: Settings, library: TemplateLibrary) -> None:
        self.templates = ModelTemplates(settings, library)
        self._compiled: WeakKeyDictionary[Worker, ChatTemplate] = WeakKeyDictionary()

    async def prompt(
        self, lease: ModelLease, request: ChatRequest, messages: tuple[Message, ...], sampling: SamplingParams
    ) -> tuple[Fitted, Rendered]:
        """The prompt with the length that its answer may have, and what became of the messages in it.

        A history that is too long loses its oldest turns where the request lets it, and then a part of its longest message;
        otherwise it is refused, here or by the worker.
        """
        trims = request.uses_session if request.trims is None else request.trims
        if trims:
            prompt, num_dropped = await self._fit(lease, request, messages, sampling)
        else:
            prompt, num_dropped = await self.render(lease, request, messages), 0
        opened = opens_thought(prompt)
        whole = await self._behind(lease.worker, request.before, prompt) if request.before else prompt
        longest = max((message.content for message in drop_oldest(messages, num_dropped)), key=len, default="")
        window = Window.of(lease.worker, request.context_size)
        fitted = await window.fit(whole, sampling, num_keep=request.num_keep, text=longest)
        return fitted, Rendered(num_dropped, opened, fitted.num_cut, fitted.prompt)

    async def render(self, lease: ModelLease, request: ChatRequest, messages: tuple[Message, ...]) -> Prompt:
        """All of the messages. Raises TemplateFailed, UnsupportedByModel."""
        template = await self._template_for(lease, request)
        turns = messages if request.before else laid_over(lease.installed, messages)  # they are in what stands before
        return await asyncio.to_thread(
            template.render, turns, think=request.think, continues_last=request.continues_last, extra=request.template_kwargs
        )

    async def _template_for(self, lease: ModelLease, request: ChatRequest) -> ChatTemplate:
        """The request's own template, or the model's, compiled once a worker. Raises TemplateFailed."""
        if not lease.worker.info.can_generate:
            raise UnsupportedByModel(f"model '{lease.name}' makes embeddings and cannot chat", param="model")
        if request.template is not None:
            return await asyncio.to_thread(self._compile, lease, request.template, "template")
        template = self._compiled.get(lease.worker)
        if template is None:
            chosen = self.templates.choose(lease.installed, lease.worker.info.chat_template)
            template = self._compiled[lease.worker] = self._compile(lease, *chosen)
        return template

    @staticmethod
    def _compile(lease: ModelLease, source: str, name: str) -> ChatTemplate:
        info = lease.worker.info
        return ChatTemplate(source, name=name, bos_token=info.bos_token, eos_token=info.eos_token, control_tokens=info.control_tokens)

    @staticmethod
    async def _behind(worker: Worker, before: tuple[int, ...], prompt: Prompt) -> list[int]:
        """The tokens of an earlier prompt, and this one's behind them, which then begins no text."""
        if before and (min(before) < 0 or max(before) >= worker.info.vocab_size):
            message = f"'context' holds a token id outside of the vocabulary: 0 to {worker.info.vocab_size - 1:,}"
            raise InvalidRequest(message, param="context")
        first, *rest = prompt or (Span(""),)
        bare = Span(first.text.removeprefix(worker.info.bos_token), first.is_literal)
        return [*before, *await worker.tokenize((bare, *rest), add_special=False)]

    async def _fit(
        self, lease: ModelLease, request: ChatRequest, history: tuple[Message, ...], sampling: SamplingParams
    ) -> tuple[Prompt, int]:
        """The prompt of the longest end of the history that leaves room for an answer, and how many messages it lost."""
        window = Window.of(lease.worker, request.context_size)
        room = window.room(sampling)

        choices = [0, *droppable(history)]
        low, high = 0, len(choices) - 1
        at = first_likely(history, choices, room)
        best: tuple[Prompt, int]
        while low <= high:  # the fewest dropped messages that fit; what fits with n dropped fits with more
            prompt = await self.render(lease, request, drop_oldest(history, choices[at]))
            fits = await window.takes(prompt, room)
            if fits or at == len(choices) - 1:
                best = prompt, choices[at]
            low, high = (low, at - 1) if fits else (at + 1, high)
            at = (low + high) // 2
        return best


def laid_over(installed: InstalledModel, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages with the model's own before them: its system text where they bring none, then its example turns."""
    first = num_leading_system(messages)
    system = messages[:first] or ((Message("system", installed.system),) if installed.system else ())
    return (*system, *installed.messages, *messages[first:])
