"""The tokens of a prompt and its text: what a tokeniser adds, and what a replaced worker tells twice."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from myllm.server.openai.bodies import CompletionBody
from myllm.server.openai.chunks import CompletionChunks
from myllm.server.openai.identity import Identity
from myllm.server.openai.logprobs import aligned, completion_logprobs, token_name
from myllm.types import Event, Finished, FinishReason, PromptLogprobs, TextDelta, TokenLogprob, Usage


def tokens(*texts: str) -> list[TokenLogprob]:
    return [TokenLogprob(at, text, text.encode(), -0.5) for at, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("told", "text", "expected"),
    [
        (["", "Once", " upon"], "Once upon", ["", "Once", " upon"]),
        (["", " Once", " upon"], "Once upon", ["", "Once", " upon"]),  # a tokeniser that puts a space before the first word
        (["", "Once", " upon"], "<s>Once upon", ["<s>", "Once", " upon"]),  # a prompt of tokens that begins with a BOS
        (["", "Once", ""], "Once\ufffd", ["", "Once", "\ufffd"]),  # a prompt of tokens that ends in the middle of a character
        (["", "Other"], "Once", ["", "Other"]),
        ([], "Once", []),
        ([""], "<s>", ["<s>"]),
    ],
)
def test_the_tokens_of_a_prompt_are_told_in_their_place(told: list[str], text: str, expected: list[str]) -> None:
    assert [token.text for token in aligned(tokens(*told), text)] == expected


@pytest.mark.parametrize(("prefix", "suffix"), [("fim", "fim"), ("a b", ""), ("", " c")])
def test_of_a_gap_that_is_filled_the_text_before_it_is_told(prefix: str, suffix: str) -> None:
    """The tokens of the suffix, and those that say which side is which, were told too, though the choice's text has none of them."""
    told = tokens("", "<|fim_prefix|>", *prefix.partition(" "), "<|fim_suffix|>", *suffix.partition(" "), "<|fim_middle|>")

    echoed = aligned(told, prefix)

    assert "".join(token.text for token in echoed) == prefix
    assert [token.token_id for token in echoed if token.text] == [2 + at for at, text in enumerate(prefix.partition(" ")) if text]
    assert (echoed[0].token_id, echoed[0].text) == (0, "")


def test_offsets_go_on_from_where_the_tokens_begin() -> None:
    assert completion_logprobs(tokens(" a", "", "😀b"), 10).text_offset == [10, 12, 12]


@pytest.mark.parametrize(("raw", "name"), [(b" the", " the"), ("😀".encode(), "😀"), (b"\xf0\x9f", "bytes:\\xf0\\x9f"), (b"", "")])
def test_a_part_of_a_character_is_told_by_its_bytes(raw: bytes, name: str) -> None:
    assert token_name(raw) == name


def test_a_prompt_that_is_told_twice_is_streamed_once() -> None:
    """A worker that died between the prompt's tokens and the first text is replaced, and the new one tells them again."""
    body = CompletionBody(model="tiny", prompt="Once", echo=True, logprobs=0)
    chunks = CompletionChunks(body, Identity.new("cmpl"), ["Once"])
    reply = SimpleNamespace(unfilled_suffix=None, usage=Usage(1, 1))
    choices: Any = SimpleNamespace(model="tiny", replies=[reply])
    prompt = PromptLogprobs(tuple(tokens("Once")))
    events: list[Event] = [prompt, prompt, TextDelta(" upon", tuple(tokens(" upon"))), Finished(FinishReason.STOP, Usage(1, 1))]

    told = [json.loads(chunk)["choices"][0] for event in events for chunk in chunks(choices, [(0, event)])]

    assert [choice["text"] for choice in told] == ["Once", " upon", ""] and chunks.is_complete
    assert told[1]["logprobs"]["text_offset"] == [4]


def test_a_token_that_is_streamed_in_two_pieces_begins_where_its_first_piece_did() -> None:
    """A stop string held back the end of " upon"; the token came with it, and was told to begin in the middle of itself."""
    body = CompletionBody(model="tiny", prompt="Once", logprobs=0)
    chunks = CompletionChunks(body, Identity.new("cmpl"), [""])
    choices: Any = SimpleNamespace(model="tiny", replies=[SimpleNamespace(unfilled_suffix=None, usage=Usage(1, 2))])
    pieces = [TextDelta(" a up"), TextDelta("on"), TextDelta(" time")]
    logprobs = [tokens(" a"), tokens(" upon"), tokens(" time")]
    events = [TextDelta(piece.text, tuple(told)) for piece, told in zip(pieces, logprobs, strict=True)]

    told = [json.loads(chunk)["choices"][0]["logprobs"] for event in events for chunk in chunks(choices, [(0, event)])]

    assert [each["text_offset"] for each in told] == [[0], [2], [7]]
