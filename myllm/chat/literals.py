"""Control tokens inside a message stay text: what somebody wrote as `<|eot_id|>` ends nothing.

A rendered prompt no longer shows who wrote which letters, so messages are masked before they are rendered: each control
token in them becomes one private-use character, drawn at random from those that the messages do not hold. One character
cannot be cut in half, and no filter for case or white space touches it. The control tokens found in the rendered text are
then the template's own; the runs between them that hold a mask become literal spans, which are tokenised without control
tokens. A token can also form across a seam: a content that ends in `<|eot_`, where the template goes on with `id|>`. So
contents whose edge may belong to a token get an edge mask there, which disappears again unless a token crosses it.
Contents that a template cuts inside are beyond this: the halves of a token, put together by the template, are its token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from random import SystemRandom
from typing import Any

from myllm.errors import InvalidRequest
from myllm.types import Prompt, Span

_FREE_TEXT = ("content", "reasoning_content")  # the fields of a message whose edges meet the template's text
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_PRIVATE_LETTER = re.compile("[\U000f0000-\U000ffffd]")
_MAX_TOKEN = 128  # real ones have some twenty letters; a hostile vocabulary may nest the pattern no deeper than `re` can
_random = SystemRandom()


class ControlTokens:
    """A vocabulary's control tokens, compiled once for searching, and the private letters of the template that they meet."""

    def __init__(self, tokens: Iterable[str], source: str = "") -> None:
        self.tokens = sorted({token for token in tokens if 0 < len(token) <= _MAX_TOKEN})
        self.pattern = re.compile(_trie_pattern(self.tokens) if self.tokens else r"(?!)")
        self.longest = max(map(len, self.tokens), default=0)
        self._first_letters = {token[0] for token in self.tokens}
        self._last_letters = {token[-1] for token in self.tokens}
        self._prefixes = {token[:size] for token in self.tokens for size in range(1, len(token))}
        self._suffixes = {token[size:] for token in self.tokens for size in range(1, len(token))}
        self._taken = set(_PRIVATE_LETTER.findall(source))
        self._inside = "\0".join(self.tokens)

    def mask(self, messages: list[dict[str, Any]], others: Mapping[str, Any]) -> Mask | None:
        """The mask that these messages and other variables need; None, nearly always, if they need none."""
        if not self.tokens:
            return None
        texts = [*strings_in(messages), *strings_in(others)]
        found = {token for text in texts for token in self.pattern.findall(text)}
        if not found and not any(self._has_edge(text) for text in free_texts(messages)):
            return None
        return Mask(self, found, self._taken.union(*map(_PRIVATE_LETTER.findall, texts)))

    def free_letter(self, texts: Iterable[str]) -> str:
        """A private letter that stands neither in the template nor in these texts."""
        (letter,) = _draw(1, self._taken.union(*map(_PRIVATE_LETTER.findall, texts)))
        return letter

    def starts_inside(self, text: str) -> bool:
        """Whether a token may end where `text` begins."""
        start = text[: self.longest]
        if self._last_letters.isdisjoint(start):
            return False
        return any(start[:size] in self._suffixes for size in range(1, len(start) + 1))

    def ends_inside(self, text: str) -> bool:
        """Whether a token may begin where `text` ends."""
        end = text[-self.longest :]
        if self._first_letters.isdisjoint(end):
            return False
        return any(end[-size:] in self._prefixes for size in range(1, len(end) + 1))

    def lies_inside(self, text: str) -> bool:
        """Whether a token may begin before `text` and end after it."""
        return 0 < len(text) < self.longest and text in self._inside

    def _has_edge(self, text: str) -> bool:
        text = text.strip()
        return self.lies_inside(text) or self.starts_inside(text) or self.ends_inside(text)

    def crosses(self, text: str, position: int) -> bool:
        """Whether some token lies on both sides of `position` in `text`."""
        for start in range(max(0, position - self.longest + 1), position):
            match = self.pattern.match(text, start)
            if match and match.end() > position:
                return True
        return False


class Mask:
    """One render's private letters: `hide` before it, `reveal` after it."""

    def __init__(self, control: ControlTokens, tokens: set[str], taken: set[str]) -> None:
        self._control = control
        edge, *letters = _draw(len(tokens) + 1, taken)
        self._edge = edge
        self._token_of = dict(zip(letters, sorted(tokens), strict=True))
        self._letter_of = {token: letter for letter, token in self._token_of.items()}
        self._masks = re.compile(f"[{''.join(letters)}]" if letters else r"(?!)")

    def hide(self, value: Any) -> Any:
        """A copy of `value` in which every string, keys too, has letters for control tokens."""
        if isinstance(value, str):
            return self._control.pattern.sub(lambda match: self._letter_of[match.group()], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def hide_message(self, message: dict[str, Any]) -> dict[str, Any]:
        hidden = {name: self.hide(value) for name, value in message.items()}
        return hidden | {name: self._with_edges(hidden[name]) for name in _FREE_TEXT if name in hidden}

    def _with_edges(self, text: str) -> str:
        """Edge masks inside the surrounding white space, where `trim` leaves them alone."""
        core = text.strip()
        is_inside = self._control.lies_inside(core)
        before = self._edge if is_inside or self._control.starts_inside(core) else ""
        after = self._edge if is_inside or self._control.ends_inside(core) else ""
        if not before and not after:
            return text
        start = text.index(core)
        return text[:start] + before + core + after + text[start + len(core) :]

    def reveal(self, rendered: str) -> Prompt:
        """The spans of a rendered text; joined, they are what it would be without masks."""
        rendered = self._unescaped(rendered)
        spans: list[Span] = []
        plain = rendered.replace(self._edge, "")
        position = 0  # in `plain`
        for piece, is_token in self._pieces(rendered):
            text = piece.replace(self._edge, "")
            is_literal = not is_token and (bool(self._masks.search(piece)) or self._is_crossed(piece, plain, position))
            _append(spans, self._masks.sub(lambda match: self._token_of[match.group()], text), is_literal)
            position += len(text)
        return tuple(spans) or (Span(""),)

    def _pieces(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """The template's control tokens and the runs between them, in order."""
        end = 0
        for match in self._control.pattern.finditer(rendered):
            yield rendered[end : match.start()], False
            yield match.group(), True
            end = match.end()
        yield rendered[end:], False

    def _is_crossed(self, run: str, plain: str, position: int) -> bool:
        """Whether a control token would form across one of the edges in `run`, which begins at `position` of `plain`."""
        for part in run.split(self._edge)[:-1]:
            position += len(part)
            if self._control.crosses(plain, position):
                return True
        return False

    def _unescaped(self, rendered: str) -> str:
        r"""Letters as they were where a template wrote JSON in ASCII, `\udb80\udc00` for each."""
        if "\\ud" not in rendered:
            return rendered
        rendered = rendered.replace(_escaped(self._edge), self._edge)
        for letter, token in self._token_of.items():
            # A token with letters beyond ASCII is none any more once it is escaped.
            rendered = rendered.replace(_escaped(letter), letter if _escaped(token) == token else _escaped(token))
        return rendered


def _trie_pattern(tokens: list[str]) -> str:
    """A pattern for the longest token at a place, one branch per letter.

    A plain alternation tries each of some 250 tokens at every `<|` of a message: half a second a megabyte, GIL held.
    """
    if tokens == [""]:
        return ""
    branches: dict[str, list[str]] = {}
    for token in filter(None, tokens):
        branches.setdefault(token[0], []).append(token[1:])
    alternatives = [re.escape(letter) + _trie_pattern(rests) for letter, rests in branches.items()]
    if len(alternatives) == 1 and "" not in tokens:
        return alternatives[0]
    return f"(?:{'|'.join(alternatives)}){'?' if '' in tokens else ''}"


def _append(spans: list[Span], text: str, is_literal: bool) -> None:
    if not text:
        return
    if spans and spans[-1].is_literal == is_literal:
        text = spans.pop().text + text
    spans.append(Span(text, is_literal))


def _draw(count: int, taken: set[str]) -> list[str]:
    """`count` private letters, none of them taken."""
    if count + len(taken) > len(_PRIVATE_USE):
        raise InvalidRequest(f"the messages hold {len(taken):,} different private-use characters; send fewer", param="messages")
    drawn = map(chr, _random.sample(_PRIVATE_USE, count + len(taken)))
    return [letter for letter in drawn if letter not in taken][:count]


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def free_texts(messages: list[dict[str, Any]]) -> Iterator[str]:
    return (message[name] for message in messages for name in _FREE_TEXT if name in message)


def strings_in(value: Any) -> list[str]:
    """Every string in a JSON value, keys too, in no order."""
    texts, pending = [], [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, Mapping):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return texts
