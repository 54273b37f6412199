"""Words for the page, as HTML: `told` a schema ("integer, 1 or more", "array of `Message`"), `prose` a description."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

LARGEST_WORTH_TELLING = 2**31 - 1


def told(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type-{name}"><code>{name}</code></a>'
    if "anyOf" in schema:
        choices = [told(choice) for choice in schema["anyOf"] if choice != {"type": "null"}]
        return " or ".join(choices) or "null"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    kind = schema.get("type", "bytes" if "contentMediaType" in schema else "anything")
    if kind == "array":
        items = schema.get("items") or {}
        return f"array of {told(items)}{_length(schema, 'minItems', 'maxItems')}" if items else "array"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {told(values)}" if isinstance(values, dict) and values else "object"
    return f"{kind}{_range(schema)}{_length(schema, 'minLength', 'maxLength')}"


def prose(text: str) -> str:
    """Escaped, with `words` between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(" ".join(text.split()), quote=False))


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and high >= LARGEST_WORTH_TELLING:
        high = None
    if low is not None and low < -LARGEST_WORTH_TELLING:
        low = None
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    if low is not None:
        return f", {low:g} or more"
    return "" if high is None else f", up to {high:g}"


def _length(schema: dict[str, Any], shortest: str, longest: str) -> str:
    low, high = schema.get(shortest, 0), schema.get(longest)
    if high is not None:
        return f", {low} to {high:,}" if low else f", up to {high:,}"
    return ", not empty" if low else ""
