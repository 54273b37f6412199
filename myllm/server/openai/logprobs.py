"""Log probabilities in OpenAI's two forms: the chat's, and that of completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    otherwise adds no text: both are seen at the beginning, and the first token is told so that the rest is in its place.
    """
    told, joined = list(tokens), "".join(token.text for token in tokens)
    if joined == text or not joined:
        return told
    if text.endswith(joined):
        told[0] = replace(told[0], text=text[: len(text) - len(joined)] + told[0].text)
    elif joined == " " + text:
        at = next(at for at, token in enumerate(told) if token.text)
        told[at] = replace(told[at], text=told[at].text[1:])
    return told


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
