"""An answer on its way to the terminal, for one question as for a chat: the text to stdout, remarks on it to stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from myllm.cli.terminal import note, write

if TYPE_CHECKING:
    from myllm.cli.conversation import Conversation
    from myllm.types import Usage

_REASONS = {"length": "it reached max_tokens or the end of the context", "cancelled": "the server stopped it"}


def stream_answer(conversation: Conversation, question: str, *, is_verbose: bool) -> None:
    """The answer to stdout as it comes; a line break ends it, also when it was stopped."""
    asked = time.monotonic()
    first = None
    ends_line = False
    try:
        with conversation.ask(question) as stream:
            for piece in stream:
                first = first or time.monotonic()
                write(piece)
                ends_line = piece.endswith("\n") if piece else ends_line
    finally:
        if first is not None and not ends_line:
            write("\n")
    ended = time.monotonic()
    answer = stream.answer
    if answer.finish_reason != "stop":
        note(f"(the answer was cut off: {_REASONS.get(answer.finish_reason, answer.finish_reason)})")
    if answer.truncated_messages:
        note(f"(the {answer.truncated_messages} oldest messages no longer fit into the model's context and were left out)")
    if is_verbose:
        note(speed(answer.usage, to_first_s=(first or ended) - asked, generating_s=ended - (first or ended)))


def speed(usage: Usage, *, to_first_s: float, generating_s: float) -> str:
    """The first token comes with the prompt's evaluation, so the rate is that of the others."""
    completion = usage.completion_tokens
    rate = f"{(completion - 1) / generating_s:.1f} tokens/s, " if completion > 1 and generating_s > 0 else ""
    prompt = f"prompt {usage.prompt_tokens} tokens ({usage.cached_tokens} cached)"
    return f"{completion} tokens, {rate}the first after {to_first_s:.2f} s; {prompt}"


def clean(text: str) -> str:
    """Arguments that are no UTF-8 arrive as lone surrogates, which cannot be sent."""
    return text.encode(errors="replace").decode()
