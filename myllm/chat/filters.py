"""The filters that a chat template may use: Jinja's own, each behind a guard that weighs what goes in and charges what comes out.

The list is closed. What is missing (`urlize`, `wordwrap`, `pprint`, `random`, …) formats web pages and has no place in a
prompt, and each would need an argument of its own why it cannot be made to run for minutes. `tojson` is not Jinja's but
the one of Hugging Face transformers, which templates are written for: no HTML escaping, non-ASCII letters as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from jinja2 import pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.utils import _PassArg

from myllm.chat.instrument import CHARGE, CONCAT, ITERATE, TICK, WEIGH
from myllm.chat.meter import LimitExceeded, Meter, MeteredIterable, current_meter, size_of

MAX_NUMBER = 10_000  # a width, a precision, a count of columns
_MAX_DIGITS = 1_000

# They look at one item or none, so nothing needs weighing.
_FREE = ("abs", "attr", "count", "d", "default", "first", "last", "length")
_WALKING = (
    "batch", "capitalize", "center", "dictsort", "groupby", "items", "list", "lower", "max", "min", "replace", "reverse", "round", "slice",
    "sort", "sum", "title", "trim", "truncate", "unique", "upper", "join", "indent", "float", "int",
)  # fmt: skip
_PER_ITEM = ("map", "reject", "rejectattr", "select", "selectattr")  # they run a filter or a test on each item

_DIGITS = re.compile(r"[0-9]+")
_WIDE_FORMAT = re.compile(r"\d{5}|%[^a-zA-Z%]*\*")


def template_filters() -> dict[str, Callable[..., Any]]:
    """Name → filter, for an environment's `filters`; the names with a tilde are for `instrument.py`'s nodes."""
    return {
        **{name: FILTERS[name] for name in _FREE},
        **{name: _guarded(FILTERS[name], _CHECKS.get(name)) for name in _WALKING},
        **{name: _guarded(FILTERS[name], iterates=True) for name in _PER_ITEM},
        "format": _format,
        "tojson": _tojson,
        **dict.fromkeys(("string", "safe"), _guarded(str)),
        **dict.fromkeys(("e", "escape"), _guarded(lambda value: str(FILTERS["escape"](value)))),
        ITERATE: pass_context(lambda context, value: MeteredIterable(value, current_meter())),
        CONCAT: pass_context(lambda context, parts: joined(parts)),
        WEIGH: _weighed,
        TICK: _ticked,
        CHARGE: _charged,
    }


def _guarded(function: Callable[..., Any], check: Callable[..., None] | None = None, *, iterates: bool = False) -> Callable[..., Any]:
    """`function` as a filter that pays. `check` gets the meter and the filter's arguments and refuses what would explode."""
    passed = _PassArg.from_obj(function)

    @pass_context  # never folded at compile time, when there are no messages to measure by
    def guarded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = current_meter()
        _weigh_arguments(meter, value, args, kwargs)
        if check is not None:
            check(meter, value, *args, **kwargs)
        if iterates:
            value = MeteredIterable(value, meter)
        result = function(*_prefix(passed, context), value, *args, **kwargs)
        if isinstance(result, Iterator):
            result = meter.collect(result)
        meter.charge(size_of(result))
        return result

    return guarded


def _prefix(passed: _PassArg | None, context: Context) -> tuple[Any, ...]:
    match passed:
        case _PassArg.context:
            return (context,)
        case _PassArg.eval_context:
            return (context.eval_ctx,)
        case _PassArg.environment:
            return (context.environment,)
    return ()


def _weigh_arguments(meter: Meter, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    meter.weigh(value)
    for argument in (*args, *kwargs.values()):
        meter.weigh(argument)
        if isinstance(argument, int) and abs(argument) > MAX_NUMBER:
            raise LimitExceeded(f"a filter takes numbers up to {MAX_NUMBER:,} as arguments")


def check_replace(meter: Meter, text: Any, old: Any, new: Any, *args: Any, **kwargs: Any) -> None:
    """`'aaaa'.replace('a', long)` multiplies."""
    text, old, new = str(text), str(old), str(new)
    if (len(text) + 1) * (len(new) + 1) > meter.left:
        meter.afford(len(text) + text.count(old) * len(new))


def check_join(meter: Meter, items: Any, separator: Any = "", *args: Any, **kwargs: Any) -> None:
    if isinstance(items, Sized):
        meter.afford(meter.weigh(items) + len(str(separator)) * len(items))


def check_search(meter: Meter, text: Any, wanted: Any = None, *args: Any, **kwargs: Any) -> None:
    """Searching from the right, and stripping given letters, takes the product of both lengths."""
    if isinstance(wanted, str):
        meter.charge(len(str(text)) * len(wanted) // 16)


def _check_indent(meter: Meter, text: Any, width: Any = 4, *args: Any, **kwargs: Any) -> None:
    width = len(width) if isinstance(width, str) else int(width)
    meter.afford(len(str(text)) + (str(text).count("\n") + 1) * width)


def _check_number(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    """Numbers with a million digits are quick to read and slow to use."""
    if isinstance(value, str) and len(value) > _MAX_DIGITS:
        raise LimitExceeded(f"a number has at most {_MAX_DIGITS:,} digits")


def _check_keys(meter: Meter, items: Any, *args: Any, **kwargs: Any) -> None:
    """A key function runs for each item, out of the meter's sight, and follows each dot of an attribute's name."""
    dots = sum(argument.count(".") for argument in (*args, *kwargs.values()) if isinstance(argument, str))
    meter.charge(8 * size_of(items) * (1 + dots))


def _check_sum(meter: Meter, items: Any, attribute: Any = None, start: Any = 0) -> None:
    """A sum of lists copies everything so far for each item."""
    _check_keys(meter, items, attribute)
    if not isinstance(start, int | float):
        raise LimitExceeded("only numbers can be summed")


_CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("dictsort", "groupby", "max", "min", "sort", "unique"), _check_keys),
    **dict.fromkeys(("float", "int"), _check_number),
    "indent": _check_indent,
    "join": check_join,
    "replace": check_replace,
    "sum": _check_sum,
    "title": lambda meter, text: meter.charge(16 * len(str(text))),  # a Python loop over the words
    "trim": check_search,
}


def joined(parts: Iterable[Any]) -> str:
    """`a ~ b ~ c`, and every other place where Jinja joins."""
    meter = current_meter()
    texts, size = [], 0
    for part in parts:
        if not isinstance(part, str):
            meter.weigh(part)
        text = str(part)
        size += len(text)
        if size > meter.left:
            meter.afford(size)
        texts.append(text)
    meter.charge(size)
    return "".join(texts)


def formatted(text: str, values: Any) -> str:
    """`text % values`, whose widths stay below 10,000 and come from the text alone."""
    meter = current_meter()
    check_format(meter, text, values)
    result: str = text % values
    meter.charge(len(result))
    return result


def check_format(meter: Meter, text: str, values: Any) -> None:
    if _WIDE_FORMAT.search(text):
        raise LimitExceeded(f"a format takes widths up to {MAX_NUMBER - 1:,}")
    widest = max(map(int, _DIGITS.findall(text)), default=0)
    fields = text.count("%") + text.count("{")
    meter.afford(len(text) + fields * (widest + meter.weigh(values)))


@pass_context
def _format(context: Context, text: Any, *args: Any, **kwargs: Any) -> str:
    current_meter().weigh(text)
    return formatted(str(text), kwargs or args)


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it. An indented one can be far larger than its value, so it is written in steps."""
    meter = current_meter()
    meter.weigh(value)
    if separators is not None:
        separators = [text[:16] for text in separators]
    indent = indent[:16] if isinstance(indent, str) else indent if indent is None else min(indent, 16)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is not None:
        return joined(encoder.iterencode(value))
    result = encoder.encode(value)
    meter.charge(len(result))
    return result


@pass_context
def _weighed(context: Context, value: Any) -> Any:
    if not isinstance(value, str):
        current_meter().weigh(value)
    return value


@pass_context
def _ticked(context: Context, value: Any) -> Any:
    current_meter().tick()
    return value


@pass_context
def _charged(context: Context, value: Any) -> Any:
    current_meter().charge(size_of(value))
    return value
