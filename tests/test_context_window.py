"""What a prompt may have of a context, over a vocabulary of letters: a token a letter, one in front of each text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from myllm.context_window import Window, shortened_input
from myllm.errors import ContextLengthExceeded
from myllm.types import Prompt, SamplingParams, Span

T = TypeVar("T")
BEGIN, END = 1, 2


class LetterWorker:
    """Counts how often it was asked for tokens."""

    def __init__(self, context_length: int, *, ends: bool = False) -> None:
        self.info = SimpleNamespace(context_length=context_length)
        self.num_asked = 0
        self._ends = ends

    async def tokenize(self, prompt: Prompt, *, add_special: bool = True) -> list[int]:
        self.num_asked += 1
        letters = [ord(letter) for span in prompt for letter in span.text]
        return [BEGIN, *letters, *([END] if self._ends else [])] if add_special else letters


def window(context_length: int = 100, size: int | None = None) -> Window:
    worker: Any = LetterWorker(context_length)
    return Window.of(worker, size)


def run(work: Awaitable[T]) -> T:
    async def await_it() -> T:
        return await work

    return asyncio.run(await_it())


def text_of(token_ids: Any) -> str:
    return "".join(chr(token_id) for token_id in token_ids if token_id not in (BEGIN, END))


def test_a_window_is_never_larger_than_the_context() -> None:
    assert [window(100, size).size for size in (None, 50, 100, 500)] == [100, 50, 100, 100]
    assert [window(100, size).is_whole for size in (None, 50, 100)] == [True, False, True]


def test_a_prompt_that_had_to_be_cut_leaves_room_for_its_answer() -> None:
    assert window(100).room(SamplingParams()) == 75
    assert window(100).room(SamplingParams(max_tokens=10)) == 90
    assert window(100).room(SamplingParams(max_tokens=60)) == 75


def test_what_surely_fits_is_not_tokenised() -> None:
    full = window(100)

    fitted = run(full.fit((Span("x" * 50),), SamplingParams(), num_keep=4))

    assert full.worker.num_asked == 0  # type: ignore[attr-defined]
    assert (text_of_spans(fitted.prompt), fitted.num_cut, fitted.sampling) == ("x" * 50, 0, SamplingParams())


def text_of_spans(prompt: Any) -> str:
    return "".join(span.text for span in prompt)


def test_a_prompt_that_fits_is_whole_however_little_is_left_for_the_answer() -> None:
    fitted = run(window(100).fit((Span("x" * 98),), SamplingParams(), num_keep=4))

    assert (text_of_spans(fitted.prompt), fitted.num_cut) == ("x" * 98, 0)


def test_what_is_too_long_loses_what_follows_the_first_tokens() -> None:
    prompt = (Span("abcdefgh" + "-" * 200 + "the end"),)

    fitted = run(window(100).fit(prompt, SamplingParams(), num_keep=4))

    assert isinstance(fitted.prompt, list) and len(fitted.prompt) == 75 and fitted.num_cut == 216 - 75
    assert text_of(fitted.prompt).startswith("abc---") and text_of(fitted.prompt).endswith("---the end")


def test_what_stands_before_a_message_stays_with_it() -> None:
    spans = (Span("system words"), Span(" user: "), Span("-" * 200 + "?", is_literal=True), Span(" assistant:"))

    fitted = run(window(100).fit(spans, SamplingParams(), num_keep=4, text=" " + "-" * 200 + "? "))

    assert text_of(fitted.prompt).startswith("system words user: ---") and text_of(fitted.prompt).endswith("---? assistant:")


@pytest.mark.parametrize("text", ["", "not there", "  "])
def test_a_message_that_a_template_has_changed_is_cut_like_any_text(text: str) -> None:
    fitted = run(window(100).fit((Span("abcdefgh" + "-" * 200),), SamplingParams(), num_keep=4, text=text))

    assert text_of(fitted.prompt).startswith("abc---")


def test_a_head_that_leaves_no_room_is_not_kept() -> None:
    fitted = run(window(100).fit((Span("s" * 90 + "u" * 90),), SamplingParams(), num_keep=4, text="u" * 90))
    greedy = run(window(100).fit((Span("x" * 300),), SamplingParams(), num_keep=1000))

    assert text_of(fitted.prompt) == "sss" + "u" * 71
    assert len(greedy.prompt) == 75


def test_tokens_are_cut_like_a_text() -> None:
    fitted = run(window(100).fit(list(range(300)), SamplingParams(max_tokens=20), num_keep=10))

    assert fitted.prompt == [*range(10), *range(230, 300)] and fitted.num_cut == 220


def test_a_prompt_that_may_not_be_cut_is_left_to_the_worker_where_the_window_is_the_models() -> None:
    fitted = run(window(100).fit((Span("x" * 300),), SamplingParams(), num_keep=None))

    assert text_of_spans(fitted.prompt) == "x" * 300


def test_a_smaller_window_refuses_with_both_numbers_and_bounds_the_answer() -> None:
    with pytest.raises(ContextLengthExceeded, match="301 tokens, the request takes 50"):
        run(window(100, 50).fit((Span("x" * 300),), SamplingParams(), num_keep=None))

    free = run(window(100, 50).fit((Span("x" * 29),), SamplingParams(), num_keep=None))
    short = run(window(100, 50).fit((Span("x" * 29),), SamplingParams(max_tokens=5), num_keep=4))
    assert (free.sampling.max_tokens, short.sampling.max_tokens) == (20, 5)


def test_the_smallest_window_has_room_for_a_token() -> None:
    fitted = run(window(100, 4).fit((Span("x" * 300),), SamplingParams(), num_keep=4))

    assert len(fitted.prompt) == 3 and fitted.sampling.max_tokens == 1


@pytest.mark.parametrize("ends", [False, True])
def test_an_input_loses_its_end_and_keeps_what_is_around_it(ends: bool) -> None:
    worker: Any = LetterWorker(100, ends=ends)

    cut = run(shortened_input(worker, "abcdefghijklmnop", 6, may_cut=True))

    assert cut == [BEGIN, *map(ord, "abcd"), END] if ends else cut == [BEGIN, *map(ord, "abcde")]


def test_an_input_that_fits_is_left_as_it_is() -> None:
    worker: Any = LetterWorker(100)

    assert run(shortened_input(worker, "abcde", 6, may_cut=False)) == "abcde"
    assert run(shortened_input(worker, "abc", 60, may_cut=True)) == "abc" and worker.num_asked == 1
    with pytest.raises(ContextLengthExceeded, match="7 tokens, 6 are taken") as caught:
        run(shortened_input(worker, "abcdef", 6, may_cut=False))
    assert caught.value.param == "input"
