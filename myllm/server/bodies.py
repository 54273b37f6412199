"""Request bodies: bounded while they are read, JSON whatever the Content-Type, and errors that name the field.

The types that msgspec validates with are each dialect's own; what they share is how a body is read and how a failed
validation is told to a person.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from myllm.errors import BodyTooLarge, InvalidRequest

T = TypeVar("T")

MAX_NESTING = 100
_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_AT = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known to be."""
    message = f"the body is larger than {max_bytes:,} bytes; send less, or raise max_body_bytes"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(message)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(message)
        chunks.append(chunk)
    return b"".join(chunks)


def decode(body: bytes, kind: type[T]) -> T:
    """The body as `kind`. Raises InvalidRequest that names the field and what it takes."""
    if not body.strip():
        raise InvalidRequest("the body is empty; send a JSON object")
    check_nesting(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        message, field = explain(str(exc))
        raise InvalidRequest(message, param=field) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        hint = "; or it holds half of a surrogate pair, which is no character" if _HALF_SURROGATE.search(body) else ""
        raise InvalidRequest(f"the body is not valid JSON: {exc}{hint}") from exc


def check_nesting(body: bytes) -> None:
    """Raises InvalidRequest for arrays and objects nested deeper than MAX_NESTING."""
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(body):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_NESTING:
                raise InvalidRequest(f"the body is nested deeper than {MAX_NESTING} levels")
        elif token in (b"]", b"}"):
            depth -= 1


def explain(problem: str) -> tuple[str, str | None]:
    """msgspec's message as (a sentence for a user, the field's path).

    "Expected `float` <= 2.0 - at `$.options.temperature`" becomes "'options.temperature' takes a number <= 2.0".
    """
    match = _AT.search(problem)
    field = match[1].replace("[...]", "") if match else None
    what = problem[: match.start()] if match else problem
    missing = re.fullmatch(r"Object missing required field `(.+)`", what)
    if missing:
        path = f"{field}.{missing[1]}" if field else missing[1]
        return f"'{path}' is required", path
    told = re.sub(r"`(.+?)`", _in_words, what)
    sentence = re.sub(r"^Expected ", "takes ", told)
    if sentence == told:  # "Invalid enum value 'x'": no expectation to tell
        sentence = f"is not valid: {told}"
    return (f"'{field}' {sentence}" if field else f"the body {sentence}"), field


def _in_words(kinds: re.Match[str]) -> str:
    """`bool | null` as "true or false"; that a field may be left out goes without saying."""
    names = [name for name in kinds[1].split(" | ") if name != "null"] or ["null"]
    return " or ".join(_WORDS.get(name, name) for name in names)
