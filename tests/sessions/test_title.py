from __future__ import annotations

import pytest

from myllm.errors import InvalidRequest
from myllm.sessions.title import automatic_title, checked_title
from myllm.types import Message


def test_the_title_is_the_first_users_first_60_characters() -> None:
    messages = [Message("system", "Be brief."), Message("user", "x" * 100), Message("user", "later")]

    assert automatic_title(messages) == "x" * 60


def test_the_title_is_one_line() -> None:
    assert automatic_title([Message("user", "\n  What\tis\r\n\r\nthis? ")]) == "What is this?"


def test_a_cut_title_does_not_end_in_a_space() -> None:
    assert automatic_title([Message("user", "x" * 59 + " yz")]) == "x" * 59


@pytest.mark.parametrize("content", ["", " \n\t ", "\x00\x1b"])
def test_a_user_message_without_text_gives_no_title(content: str) -> None:
    assert automatic_title([Message("user", content)]) is None
    assert automatic_title([Message("user", content), Message("user", "next")]) == "next"


def test_without_a_user_there_is_no_title() -> None:
    assert automatic_title([Message("system", "Be brief."), Message("assistant", "Hello.")]) is None


def test_terminal_escapes_do_not_reach_a_title() -> None:
    title = automatic_title([Message("user", "\x1b[31mred\x07 \x9b2J")])

    assert title == "[31mred 2J"


def test_joined_emoji_stay_joined() -> None:
    assert automatic_title([Message("user", "👩‍🚀 hi")]) == "👩‍🚀 hi"


def test_leading_white_space_of_any_length_does_not_hide_the_title() -> None:
    assert automatic_title([Message("user", " " * 100_000 + "found")]) == "found"


def test_a_title_set_by_hand_is_put_on_one_line() -> None:
    assert checked_title("  My\nplans ") == "My plans"


@pytest.mark.parametrize("title", ["", "  \n", "\x00", "\ud800", "x" * 201])
def test_a_title_of_nothing_or_of_too_much_is_refused(title: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 200") as refused:
        checked_title(title)

    assert refused.value.param == "title"
