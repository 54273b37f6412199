"""What a model thinks and what it says: the splitter against its meaning, however the answer is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from myllm.chat.library import TemplateLibrary
from myllm.chat.template import ChatTemplate, Think
from myllm.chat.thoughts import ThoughtSplitter, opens_thought, split_thoughts
from myllm.types import Message, Span

PARTS = ["<think>", "</think>", "<thi", "nk>", "</", "think>", "<", ">", "/", " ", "\n", "\n\n", "a", "Hello", "é", "😀", "\u2003"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


def meaning(text: str, is_open: bool) -> tuple[str, str]:
    """The rules of the splitter for a text that is there as a whole."""
    body = text.lstrip()
    if body.startswith("<think>"):
        body = body.removeprefix("<think>")
    elif not is_open:
        return "", text
    thought, _, rest = body.partition("</think>")
    return thought.strip(), rest.lstrip()


def fed(pieces: list[str], is_open: bool) -> tuple[str, str]:
    splitter = ThoughtSplitter(is_open=is_open)
    told = [*(splitter.feed(piece) for piece in pieces), splitter.flush()]
    return "".join(thought for thought, _ in told), "".join(text for _, text in told)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(TEXTS, st.lists(st.integers(0, 200)), st.booleans())
@example("<think>\n hm\n</think>\n\nHi", [7, 8], False)
@example("<think>", [3], True)
def test_how_an_answer_is_cut_makes_no_difference(text: str, places: list[int], is_open: bool) -> None:
    assert fed(cut(text, places), is_open) == fed(list(text), is_open) == split_thoughts(text, is_open=is_open) == meaning(text, is_open)


@given(TEXTS, st.booleans())
def test_nothing_but_tags_and_space_is_ever_lost(text: str, is_open: bool) -> None:
    thought, said = split_thoughts(text, is_open=is_open)

    missing = len("".join(text.split())) - len("".join((thought + said).split()))
    assert missing in (0, len("<think>"), len("</think>"), len("<think></think>"))


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("<think>\nhm\n</think>\n\nHi", False, ("hm", "Hi")),
        ("hm\n</think>\n\nHi", True, ("hm", "Hi")),
        ("<think>\nhm\n</think>\n\nHi", True, ("hm", "Hi")),  # opened once more by the model
        ("<think>\n\n</think>\n\nHi", False, ("", "Hi")),
        ("\n  Hi <think>no</think>", False, ("", "\n  Hi <think>no</think>")),
        ("hm</think>Hi <think>no</think> ", True, ("hm", "Hi <think>no</think> ")),
        ("<think>cut off </thi", False, ("cut off </thi", "")),
        ("<thi", False, ("", "<thi")),
        ("  ", False, ("", "  ")),
        ("", True, ("", "")),
        ("</think>Hi", False, ("", "</think>Hi")),
    ],
)
def test_a_whole_answer_is_told_apart(text: str, is_open: bool, expected: tuple[str, str]) -> None:
    assert split_thoughts(text, is_open=is_open) == expected


def test_what_is_certain_is_told_at_once() -> None:
    splitter = ThoughtSplitter()

    told = [splitter.feed(piece) for piece in ["<think>", "\n", "so", " far", "\n", "</", "b>", "</think>", "\n", "Hi", " <think>"]]

    assert told == [
        ("", ""),
        ("", ""),
        ("so", ""),
        (" far", ""),
        ("", ""),
        ("", ""),
        ("\n</b>", ""),
        ("", ""),
        ("", ""),
        ("", "Hi"),
        ("", " <think>"),
    ]
    assert splitter.flush() == ("", "")


@pytest.mark.parametrize(
    ("family", "think", "is_open"),
    [
        ("deepseek-r1", True, True),
        ("deepseek-r1", False, False),
        ("qwen3", True, False),
        ("qwen3", False, False),
        ("chatml", True, False),
    ],
)
def test_the_prompts_of_our_templates_say_whether_the_answer_begins_in_a_thought(family: str, think: Think, is_open: bool) -> None:
    template = ChatTemplate(TemplateLibrary().get(family).source, name=family)

    assert opens_thought(template.render([Message("user", "<think>")], think=think)) is is_open


def test_a_tag_that_somebody_wrote_opens_no_thought() -> None:
    assert opens_thought((Span("<s>"), Span("<think>\n")))
    assert not opens_thought((Span("<s>"), Span("<think>", is_literal=True)))
    assert not opens_thought(())
