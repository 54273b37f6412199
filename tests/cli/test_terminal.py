"""Figures and texts as people read them."""

from __future__ import annotations

import pytest

from myllm.cli.answer import speed
from myllm.cli.run import join_question
from myllm.cli.terminal import count, printable, size
from myllm.types import Usage


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3_096_960, "3.1 MB"), (999_999, "1 MB"), (123_456_789, "123 MB"), (3e15, "3000 TB")],
)
def test_sizes(num_bytes, shown):
    assert size(num_bytes) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (5_049_600, "5M"), (1_240_000_000, "1.2B"), (70_600_000_000, "70.6B"), (671e9, "671B"), (22_700, "22.7k")],
)
def test_counts(number, shown):
    assert count(number) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred", "�[31mred"),
        ("a\rb\x08\x07", "a�b��"),
        ("\x9b31m", "�31m"),
        ("evil\u202etxt.exe", "evil�txt.exe"),
        ("Grüße 😀 日本", "Grüße 😀 日本"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("prompt", "piped", "question"),
    [(None, None, None), ("a", None, "a"), (None, "b\n", "b"), ("a", "b\n", "a\n\nb"), ("a", "", "a"), (None, "\n", None), ("", "", None)],
)
def test_what_is_asked(prompt, piped, question):
    assert join_question(prompt, piped) == question


def test_the_speed_counts_the_tokens_after_the_first():
    told = speed(Usage(completion_tokens=11, prompt_tokens=5, cached_tokens=2), to_first_s=0.25, generating_s=2.0)

    assert told == "11 tokens, 5.0 tokens/s, the first after 0.25 s; prompt 5 tokens (2 cached)"


def test_an_answer_of_one_token_has_no_speed():
    assert "tokens/s" not in speed(Usage(completion_tokens=1), to_first_s=0.1, generating_s=0.0)
