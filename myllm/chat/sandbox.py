"""Where a chat template runs: Jinja's immutable sandbox, closed further and metered, because a GGUF file is anybody's.

Jinja's sandbox keeps a template from Python's internals but not from a loop of 10^10 steps or a string of 10^10 letters.
Here each loop, call, operator, filter and join asks the render's `Meter` (`meter.py`), constants are not folded while
compiling, and plain values have only the methods that prompts need. What a template may see is configured as Hugging
Face transformers does it, since that is what template authors test with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from string import Formatter
from types import BuiltinMethodType
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from myllm.chat.filters import check_format, check_join, check_replace, check_search, formatted, joined, template_filters
from myllm.chat.instrument import instrument
from myllm.chat.meter import LimitExceeded, MeteredIterable, current_meter, size_of

_MAX_BITS = 4_096  # of a number; anything larger is an attack on the processor
_MAX_DATE_FORMAT = 200

# Nothing that pads to a width, and nothing that makes bytes.
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {
            "capitalize",
            "casefold",
            "count",
            "endswith",
            "find",
            "format",
            "index",
            "isalnum",
            "isalpha",
            "isascii",
            "isdecimal",
            "isdigit",
            "islower",
            "isnumeric",
            "isspace",
            "istitle",
            "isupper",
            "join",
            "lower",
            "lstrip",
            "partition",
            "removeprefix",
            "removesuffix",
            "replace",
            "rfind",
            "rindex",
            "rpartition",
            "rsplit",
            "rstrip",
            "split",
            "splitlines",
            "startswith",
            "strip",
            "swapcase",
            "title",
            "upper",
        }
    ),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
}
_OPEN_TYPES = (LoopContext, Namespace, Cycler, Joiner)  # public attributes of Jinja's own objects
_COMPILER_ARGUMENTS = ("_loop_vars", "_block_vars")  # Jinja's compiler hands them to every call in a loop, for Context.call
_METHOD_CHECKS: dict[str, Callable[..., None]] = {
    "replace": check_replace,
    "join": lambda meter, separator, items: check_join(meter, items, separator),
    **dict.fromkeys(("lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"), check_search),
}


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a training run learns from; for a prompt it is its body."""

    tags = {"generation"}  # noqa: RUF012 (Jinja reads it from the class)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates can neither escape nor run away. Compile and render inside `spending(meter)`."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would compute 'a' * 10 ** 10 before there is anything to measure by
            extensions=[GenerationTag, loopcontrols],
            finalize=_printable,
        )
        self.filters = template_filters()
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def _generate(self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False) -> str:
        return super()._generate(instrument(source), name, filename, defer_init)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        return joined(parts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for plain_type, methods in _METHODS.items():
            if isinstance(obj, plain_type):
                return attr in methods
        return isinstance(obj, _OPEN_TYPES) and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once; Jinja's own would print as nothing. A dict may have a key named like a method that it lost."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        raise SecurityError(f"it may not use '{attribute}' of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` behind Jinja's own guard of attributes and ours of widths; `format_map` is not available."""
        if not isinstance(value, BuiltinMethodType) or value.__name__ != "format" or not isinstance(value.__self__, str):
            return None
        text, wrapped = value.__self__, super().wrap_str_format(value)

        def checked(*args: Any, **kwargs: Any) -> str:
            check_format(current_meter(), text, [*args, *kwargs.values()])
            if any("{" in (spec or "") for _, _, spec, _ in Formatter().parse(text)):
                raise LimitExceeded("a format takes its widths from its text alone")
            assert wrapped is not None
            return wrapped(*args, **kwargs)

        return checked

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """One call of a macro, a method or a global; positional-only, so that a macro's argument may be named `obj`."""
        meter = current_meter()
        meter.charge(size_of(args) + size_of(kwargs))
        given = {name: value for name, value in kwargs.items() if name not in _COMPILER_ARGUMENTS}
        if isinstance(obj, BuiltinMethodType):
            return _call_method(obj, args, given)
        if isinstance(obj, LoopContext):
            args = tuple(MeteredIterable(items, meter) for items in args)
        elif not isinstance(obj, Macro):
            meter.weigh([*args, *given.values()])
        with meter.deeper():
            result = super().call(context, obj, *args, **kwargs)
        meter.charge(size_of(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = current_meter()
        if operator == "+" and type(left) is type(right) is str:  # nearly every operator of a chat template
            meter.charge(len(left) + len(right))
            return left + right
        if operator == "%" and isinstance(left, str):
            return formatted(left, right)
        if operator == "+":
            meter.charge(size_of(left) + size_of(right))
        elif operator == "*":
            meter.charge(_product_size(left, right))
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(operator, left, right)
        result = self.binop_table[operator](left, right)
        if isinstance(result, tuple):
            meter.weigh(result)
        return result


@pass_context
def _printable(context: Context, value: Any) -> Any:
    """What `{{ … }}` prints, before it becomes text."""
    if not isinstance(value, str):
        meter = current_meter()
        meter.charge(meter.weigh(value))
    return value


def _call_method(method: BuiltinMethodType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A method of a string, list, tuple or dict; a dict's views come as lists, which the meter knows how to weigh."""
    meter, owner = current_meter(), method.__self__
    if not isinstance(owner, dict):
        for value in (owner, *args, *kwargs.values()):
            meter.weigh(value)
    if isinstance(owner, str):
        meter.charge(len(owner))
        check = _METHOD_CHECKS.get(method.__name__)
        if check is not None:
            check(meter, owner, *args, **kwargs)
    result = method(*args, **kwargs)
    if isinstance(owner, dict) and method.__name__ in ("items", "keys", "values"):
        result = list(result)
    meter.charge(size_of(result))
    return result


def _product_size(left: Any, right: Any) -> int:
    if isinstance(right, int):
        return size_of(left) * max(right, 0)
    return size_of(right) * max(left, 0) if isinstance(left, int) else 0


def _check_bits(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if bits > _MAX_BITS:
        raise LimitExceeded(f"it computed with a number of more than {_MAX_BITS:,} bits")


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(date_format: str) -> str:
    if len(date_format) > _MAX_DATE_FORMAT:
        raise LimitExceeded(f"a date's format has at most {_MAX_DATE_FORMAT} letters")
    return datetime.now().strftime(date_format)
