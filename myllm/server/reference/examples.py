"""An example of a body, made of its schema: what is required, with values that the bundled model can answer."""

from __future__ import annotations

from typing import Any

from myllm.server.reference.schemas import Schemas

BY_NAME: dict[str, Any] = {
    "model": "tiny",
    "name": "tiny",
    "role": "user",
    "content": "Hello!",
    "message": "Hello!",
    "prompt": "Once upon a time",
    "input": "Hello!",
    "query": "What does a cat eat?",
    "documents": ["Cats eat fish.", "Cars need fuel."],
    "tokens": [72, 101],
    "title": "A conversation",
    "max_tokens": 16,
}
SHOWN = "content"  # some kinds of message may do without


def example_of(schema: dict[str, Any], schemas: Schemas, name: str = "") -> Any:
    """Of a choice the first; of an object the required fields, and what a message says."""
    schema = schemas.resolved(schema)
    kind = schema.get("type")
    if name == "messages" and kind == "string":
        return BY_NAME["message"]
    if name in BY_NAME and kind != "object":
        return BY_NAME[name]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas, name)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if kind == "object":
        fields = schema.get("properties", {})
        shown = {*schema.get("required", []), SHOWN} & fields.keys()
        return {field: example_of(fields[field], schemas, field) for field in fields if field in shown}
    if kind == "array":
        return [example_of(schema.get("items", {}), schemas, name)][: 1 if schema.get("minItems") else 0]
    return {"string": "text", "integer": schema.get("minimum", 1), "number": schema.get("minimum", 0), "boolean": False}.get(str(kind))
