"""`ChatTemplate`: messages → the prompt that a model was trained on, in spans that keep control tokens honest.

The Jinja source comes from a GGUF file or from `templates/` and is trusted in neither case: it runs in a metered sandbox
(`sandbox.py`), and whatever goes wrong in it is one `TemplateFailed` with the template's name and line. Which template a
model gets is `library.py`'s choice; turning the model's answer back into messages is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Literal

from jinja2 import Template, TemplateSyntaxError

from myllm.chat.literals import ControlTokens, strings_in
from myllm.chat.meter import Meter, spending
from myllm.chat.sandbox import TemplateSandbox
from myllm.chat.turns import as_dict, developer_as_system, fold_system
from myllm.errors import InvalidRequest, TemplateFailed
from myllm.types import Message, Prompt, Span

MAX_SOURCE_CHARACTERS = 131_072  # several times the longest template in use
_MAX_REASON_CHARACTERS = 300

# Digits, so that no filter for case changes them.
_SYSTEM_PROBE, _USER_PROBE = "7310482965", "5820917364"

Think = bool | Literal["low", "medium", "high"] | None


class ChatTemplate:
    """One model's template, compiled. Safe to render from several threads at once.

    control_tokens: the texts of the vocabulary's control tokens; in messages they stay text.
    Raises TemplateFailed for a source that does not compile.
    """

    def __init__(self, source: str, *, name: str, bos_token: str = "", eos_token: str = "", control_tokens: Iterable[str] = ()) -> None:
        self.source = source
        self.name = name
        self._specials = {"bos_token": bos_token, "eos_token": eos_token}
        self._control = ControlTokens(control_tokens, source)
        self._sandbox = TemplateSandbox()
        self._template = self._compiled()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: Think = None,
        add_generation_prompt: bool = True,
        continues_last: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt for these messages.

        think: True or an effort turns `enable_thinking` on, None leaves it off unless `extra` says otherwise.
        tools: OpenAI's tool objects. extra: further template variables; the ones above cannot be replaced by it.
        continues_last: it ends where the last message's text does, and what is generated goes on with that message.
        Raises TemplateFailed for whatever the template does wrong, or refuses with `raise_exception`, and InvalidRequest
        where the last message cannot be continued.
        """
        others = {"enable_thinking": False, "documents": None, **(extra or {}), **_thinking(think), "tools": list(tools) if tools else None}
        turns = [as_dict(message) for message in self._with_known_roles(messages)]
        end = self._mark_end(turns) if continues_last else None
        mask = self._control.mask(turns, others)
        if mask is not None:
            turns, others = [mask.hide_message(turn) for turn in turns], mask.hide(others)
        is_opened = add_generation_prompt and end is None
        try:
            rendered = self._run({**others, **self._specials, "messages": turns, "add_generation_prompt": is_opened})
        except TemplateFailed as error:
            error.message = error.message.replace(end or "", "")  # a template may put a message into its error
            if mask is not None:
                error.message = "".join(span.text for span in mask.reveal(error.message))
            raise
        if end is not None:
            rendered = self._cut(rendered, end)
        return mask.reveal(rendered) if mask is not None else (Span(rendered),)

    def _mark_end(self, turns: list[dict[str, Any]]) -> str:
        """Puts a letter that stands nowhere else behind the last turn's text; no filter of a template takes it away."""
        if not turns or turns[-1]["role"] != "assistant":
            raise InvalidRequest("only a message of role 'assistant' can be continued; end with one, or with the user's", param="messages")
        end = self._control.free_letter(strings_in(turns))
        turns[-1]["content"] += end
        return end

    def _cut(self, rendered: str, end: str) -> str:
        if rendered.count(end) != 1:
            raise InvalidRequest(
                f"chat template '{self.name}' cannot leave its last message open to be continued; end with the user's", param="messages"
            )
        return rendered[: rendered.index(end)]

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system turn reaches the prompt, tried out once; a template that fails anyway is not to be helped."""
        user = {"role": "user", "content": _USER_PROBE}
        with_system = self._probe([{"role": "system", "content": _SYSTEM_PROBE}, user])
        if with_system is None:
            return self._probe([user]) is None
        return _SYSTEM_PROBE in with_system

    def _probe(self, turns: list[dict[str, Any]]) -> str | None:
        try:
            return self._run({**self._specials, "messages": turns, "tools": None, "enable_thinking": False, "add_generation_prompt": True})
        except TemplateFailed:
            return None

    def _with_known_roles(self, messages: Sequence[Message]) -> Sequence[Message]:
        if "developer" not in self.source:
            messages = developer_as_system(messages)
        if any(message.role == "system" for message in messages) and not self.takes_system:
            messages = fold_system(messages)
        return messages

    def _compiled(self) -> Template:
        if len(self.source) > MAX_SOURCE_CHARACTERS:
            raise self._failure(f"it has {len(self.source):,} characters, more than {MAX_SOURCE_CHARACTERS:,}", 1)
        try:
            with spending(Meter()):
                return self._sandbox.from_string(self.source)
        except TemplateSyntaxError as exc:
            raise self._failure(exc.message or "syntax error", exc.lineno) from exc
        except Exception as exc:  # a hostile source can make the parser or Python's compiler raise anything
            raise self._failure(str(exc) or type(exc).__name__, 1) from exc

    def _run(self, variables: dict[str, Any]) -> str:
        meter = Meter(sum(map(len, strings_in(variables))))
        pieces = self._template.root_render_func(self._template.new_context(variables))
        try:
            with spending(meter):
                return self._sandbox.concat(pieces)
        except Exception as exc:  # template code: anything may come out of it, and all of it is the template's failure
            raise self._failure(str(exc) or type(exc).__name__, self._line_of(exc.__traceback__)) from exc

    def _line_of(self, traceback: TracebackType | None) -> int:
        """The innermost line of the template in a traceback of its compiled code."""
        line = 1
        while traceback is not None:
            if traceback.tb_frame.f_globals.get("__jinja_template__") is self._template:
                line = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return line

    def _failure(self, reason: str, line: int) -> TemplateFailed:
        reason = " ".join(reason[:_MAX_REASON_CHARACTERS].split())
        return TemplateFailed(f"chat template '{self.name}' failed at line {line}: {reason}")


def _thinking(think: Think) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    return {"enable_thinking": True, "reasoning_effort": think}
