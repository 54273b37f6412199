"""Which of a history's turns go where it does not fit, over a vocabulary of letters: a token a letter, one in front of each text."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from myllm.chat.library import TemplateLibrary
from myllm.config import Settings
from myllm.prompting import Prompter
from myllm.reply import Rendered
from myllm.types import ChatRequest, Message, Prompt, SamplingParams

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
SYSTEM, QUESTION = Message("system", "Be kind."), Message("user", "What now?")
ROOM = 750  # of a context of 1,000 tokens, where the answer's length is open


class LetterWorker:
    """Keeps what it was asked to tokenise."""

    def __init__(self, letters_a_token: int) -> None:
        empty: dict[str, Any] = {"bos_token": "", "eos_token": "", "control_tokens": ()}
        self.info = SimpleNamespace(context_length=1000, can_generate=True, chat_template=TEMPLATE, **empty)
        self.asked: list[str] = []
        self._letters_a_token = letters_a_token

    async def tokenize(self, prompt: Prompt, *, add_special: bool = True) -> list[int]:
        self.asked.append("".join(span.text for span in prompt))
        return [1] * (1 + len(self.asked[-1]) // self._letters_a_token)


def fit(history: tuple[Message, ...], letters_a_token: int = 1) -> tuple[str, Rendered, LetterWorker]:
    installed = SimpleNamespace(name="letters", template=None, template_source=None, system=None, messages=())
    worker = LetterWorker(letters_a_token)
    lease: Any = SimpleNamespace(name="letters", installed=installed, worker=worker)
    request = ChatRequest("letters", history, trims=True)
    prompter = Prompter(Settings(), TemplateLibrary())
    fitted, rendered = asyncio.run(prompter.prompt(lease, request, history, SamplingParams()))
    assert isinstance(fitted.prompt, tuple)
    return "".join(span.text for span in fitted.prompt), rendered, worker


def turns(num_turns: int, length: int = 20) -> list[Message]:
    return [Message(role, f"{at % 10} {'x' * length}") for at in range(num_turns) for role in ("user", "assistant")]


def written(messages: tuple[Message, ...]) -> str:
    return "".join(f"<{message.role}>{message.content}\n" for message in messages)


def test_a_history_that_fits_is_whole_and_written_once() -> None:
    history = (*turns(3), QUESTION)

    text, rendered, worker = fit(history)

    assert (text, rendered.truncated_messages, worker.asked) == (written(history), 0, [])


@pytest.mark.parametrize("letters_a_token", [1, 3, 12, 40])
@pytest.mark.parametrize("lengths", [[20], [0, 300], [200, 0, 0], [3000, 5]])
@pytest.mark.parametrize("num_turns", [1, 2, 9, 40, 400])
def test_the_fewest_turns_go_that_leave_room(num_turns: int, lengths: list[int], letters_a_token: int) -> None:
    old = [turn for at in range(num_turns) for turn in turns(1, lengths[at % len(lengths)])]
    history = (SYSTEM, *old, QUESTION)
    ends = [(SYSTEM, *old[2 * num_dropped :], QUESTION) for num_dropped in range(num_turns + 1)]
    fewest = next(num for num, end in enumerate(ends) if 1 + len(written(end)) // letters_a_token <= ROOM)

    text, rendered, _ = fit(history, letters_a_token)

    assert rendered.truncated_messages == 2 * fewest and text == written(ends[fewest])


def test_what_is_tokenised_does_not_grow_with_a_history_that_does_not_fit() -> None:
    asked = [sum(map(len, fit((SYSTEM, *turns(num_turns), QUESTION))[2].asked)) for num_turns in (1_000, 20_000)]

    assert asked[0] == asked[1] > 0


def test_a_question_that_is_too_long_by_itself_keeps_the_system_message_and_nothing_else() -> None:
    question = Message("user", "x" * 2000)

    text, rendered, _ = fit((SYSTEM, *turns(5), question))

    assert (text, rendered.truncated_messages) == (written((SYSTEM, question)), 10)
