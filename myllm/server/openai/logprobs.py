"""Log probabilities in OpenAI's two forms: the chat's, and that of completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec.structs import replace

from myllm.server.openai.answers import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob
from myllm.types import TokenLogprob


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> ChatLogprobs:
    """Of an answer's tokens; only a prompt's first one has no log probability, and a chat tells no prompt."""
    return ChatLogprobs([_chat_token(token) for token in tokens])


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs:
    """offset: where in the choice's text the first of these tokens begins."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    texts, logprobs = [token.text for token in tokens], [token.logprob for token in tokens]
    return CompletionLogprobs(texts, logprobs, [_top(token) for token in tokens], offsets)


def aligned(tokens: Sequence[TokenLogprob], text: str) -> list[TokenLogprob]:
    """The prompt's tokens so that they make up its text.

    A tokeniser may put a space before the first word, and a prompt of token ids may begin with a control token that
    otherwise adds no text, or end in the middle of a character: the first or last token is told so that the rest is in its
    place. Where a gap is filled, the text lies among control tokens and before a suffix that the choice does not repeat.
    """
    told, joined = list(tokens), "".join(token.text for token in tokens)
    if joined == text or not told:
        return told
    if text.endswith(joined):
        told[0] = replace(told[0], text=text[: len(text) - len(joined)] + told[0].text)
    elif text.startswith(joined):
        told[-1] = replace(told[-1], text=told[-1].text + text[len(joined) :])
    elif joined == " " + text:
        at = next(at for at, token in enumerate(told) if token.text)
        told[at] = replace(told[at], text=told[at].text[1:])
    else:
        told = _run(told, text)
    return told


def _run(tokens: list[TokenLogprob], text: str) -> list[TokenLogprob]:
    """The first tokens behind the first one that make up the text, after those before them with none; all where none do."""
    joined, places = "".join(token.text for token in tokens), list(accumulate((len(token.text) for token in tokens), initial=0))
    for first, place in enumerate(places[1:], 1):
        if joined.startswith(text, place) and place + len(text) in places:
            last = places.index(place + len(text), first)
            return [*(replace(token, text="") for token in tokens[:first]), *tokens[first:last]]
    return tokens


def token_name(raw: bytes) -> str:
    """A token's text; one that is a part of a character is told by its bytes, as OpenAI tells it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _chat_token(token: TokenLogprob) -> ChatTokenLogprob:
    assert token.logprob is not None
    top = [TopLogprob(token_name(raw), logprob, list(raw)) for raw, logprob in token.top]
    return ChatTokenLogprob(token.text, token.logprob, list(token.raw), top)


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens, then the picked one where it is none of them, under the name that `tokens` tells it by."""
    if token.logprob is None:
        return None
    name = token.text or token_name(token.raw)
    return {name if raw == token.raw else token_name(raw): logprob for raw, logprob in token.top} | {name: token.logprob}
