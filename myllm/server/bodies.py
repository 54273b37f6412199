"""Request bodies: bounded while they are read, JSON whatever the Content-Type, and errors that name the field.

The types that msgspec validates with are each dialect's own; what they share is how a body is read and how a failed
validation is told to a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import inspect
from starlette.requests import ClientDisconnect, Request

from myllm.errors import BodyTooLarge, InvalidRequest
from myllm.server.streaming import ClientLeft

T = TypeVar("T")

MAX_NESTING = 100
MAX_CONTAINERS = 100_000  # arrays and objects; each is an object of Python, and of many the collector makes seconds
_AT = re.compile(r" - at (`key` in )?`\$\.?(.*?)`$")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")  # of a path: a field's name, or what stands for an entry
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
    """The whole body. Raises BodyTooLarge as soon as it is known to be, and ClientLeft where the rest never comes."""
    message = f"the body is larger than {max_bytes:,} bytes; send less, or raise max_body_bytes"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(message)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise BodyTooLarge(message)
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise ClientLeft from exc
    return b"".join(chunks)


def decode(body: bytes, kind: type[T]) -> T:
    """The body as `kind`. Raises InvalidRequest that names the field and what it takes."""
    if not body.strip():
        raise InvalidRequest("the body is empty; send a JSON object")
    check_structure(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        message, field = explain(str(exc), kind)
        raise InvalidRequest(message, param=field) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        hint = "; or it holds half of a surrogate pair, which is no character" if _HALF_SURROGATE.search(body) else ""
        raise InvalidRequest(f"the body is not valid JSON: {exc}{hint}") from exc


def decode_query(query: Mapping[str, str], kind: type[T]) -> T:
    """A query as `kind`, numbers and booleans read from their texts. Raises InvalidRequest that names the parameter."""
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as exc:
        message, field = explain(str(exc), kind)
        raise InvalidRequest(message, param=field) from exc


def check_structure(body: bytes) -> None:
    """Raises InvalidRequest for more arrays and objects than MAX_CONTAINERS, or deeper ones than MAX_NESTING."""
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    depth, num_containers = _structure(body)
    if depth > MAX_NESTING:
        raise InvalidRequest(f"the body is nested deeper than {MAX_NESTING} levels")
    if num_containers > MAX_CONTAINERS:
        told = f"the body holds {num_containers:,} arrays and objects"
        raise InvalidRequest(f"{told}; it takes {MAX_CONTAINERS:,} at most, send several requests")


def _structure(body: bytes) -> tuple[int, int]:
    """How deep JSON is nested, and how many arrays and objects it holds. A byte costs a few nanoseconds: no stream waits while
    a prompt full of code is looked through."""
    unescaped = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    is_text = np.logical_xor.accumulate(unescaped == ord('"'))
    folded = unescaped | 0x20  # makes braces of brackets, and of nothing else
    opens = (folded == ord("{")) & ~is_text
    closes = (folded == ord("}")) & ~is_text
    depths = (opens.view(np.int8) - closes.view(np.int8)).cumsum(dtype=np.int32)
    return int(depths.max(initial=0)), int(opens.sum())


def explain(problem: str, kind: Any) -> tuple[str, str | None]:
    """msgspec's message about what was to be a `kind`, as (a sentence for a user, the field's path).

    "Expected `float` <= 2.0 - at `$.options.temperature`" becomes "'options.temperature' takes a number <= 2.0".
    """
    match = _AT.search(problem)
    path = match[2] if match else ""
    field = path.replace("[...]", "") if match else None
    what = problem[: match.start()] if match else problem
    missing = re.fullmatch(r"Object missing required field `(.+)`", what)
    if missing:
        path = f"{field}.{missing[1]}" if field else missing[1]
        return f"'{path}' is required", path
    told = re.sub(r"`(.+?)`", _in_words, what)
    sentence = re.sub(r"^Expected ", "takes ", told)
    if choices := what.startswith("Invalid enum value") and _choices(kind, path):
        sentence = f"takes {_listed(choices)}, got {what.removeprefix('Invalid enum value ')}"
    elif sentence == told:  # "Number out of range": no expectation to tell
        sentence = f"is not valid: {told}"
    whose = "each name in " if match and match[1] else "each value in " if path.endswith("[...]") else ""
    return (f"{whose}'{field}' {sentence}" if field else f"the body {sentence}"), field


def _choices(kind: Any, path: str) -> list[Any]:
    """The values that may stand at a place of a `kind`, where its type writes them out."""
    places = _alternatives(inspect.type_info(kind))
    for step in _STEP.findall(path):
        places = [inner for place in places for inner in _alternatives(_inside(place, step))]
    return [value for place in places if isinstance(place, inspect.LiteralType) for value in place.values if value is not None]


def _alternatives(place: inspect.Type | None) -> list[inspect.Type]:
    return list(place.types) if isinstance(place, inspect.UnionType) else [place] if place else []


def _inside(place: inspect.Type, step: str) -> inspect.Type | None:
    """The type one step further on a path; None where this type has no such step."""
    if isinstance(place, inspect.StructType):
        return next((field.type for field in place.fields if field.encode_name == step), None)
    if isinstance(place, inspect.ListType) and step.startswith("["):
        return place.item_type
    return place.value_type if isinstance(place, inspect.DictType) and step.startswith("[") else None


def _listed(choices: Sequence[Any]) -> str:
    """'a', 'b' or 'c'; in the order of the alphabet, as msgspec keeps them."""
    *others, last = [repr(choice) for choice in choices]
    return f"{', '.join(others)} or {last}" if others else last


def _in_words(kinds: re.Match[str]) -> str:
    """`bool | null` as "true or false"; that a field may be left out goes without saying."""
    names = [name for name in kinds[1].split(" | ") if name != "null"] or ["null"]
    return " or ".join(_WORDS.get(name, name) for name in names)
