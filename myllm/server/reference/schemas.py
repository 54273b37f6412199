"""`Schemas`: the types of all operations as JSON Schema, the shared ones under names that say whose they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

REF = "#/components/schemas/{name}"
_QUALIFIED = re.compile(r"myllm\.(?:server\.)?(\w+)(?:\.\w+)*\.(\w+)")  # how msgspec names types whose short names clash


class Schemas:
    """components: by name. `of(kind)` refers to them."""

    def __init__(self, kinds: Iterable[Any]) -> None:
        members = list(dict.fromkeys(member for kind in kinds for member in _members(kind)))
        schemas, components = msgspec.json.schema_components(members, ref_template=REF)
        self._names = _short_names(components)
        self._schemas = {member: self._renamed(schema) for member, schema in zip(members, schemas, strict=True)}
        self.components = dict(sorted((self._names[name], self._renamed(schema)) for name, schema in components.items()))

    def of(self, kind: Any) -> dict[str, Any]:
        return self.of_any(kind)

    def of_any(self, *kinds: Any) -> dict[str, Any]:
        schemas = [self._schemas[member] for kind in kinds for member in _members(kind)]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The component that a reference means; any other schema is itself."""
        ref = schema.get("$ref")
        found: dict[str, Any] = self.components[ref.rpartition("/")[2]] if ref else schema
        return found

    def _renamed(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self._renamed(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        renamed = {key: self._renamed(value) for key, value in schema.items()}
        if "$ref" in renamed:
            renamed["$ref"] = REF.format(name=self._names[renamed["$ref"].rpartition("/")[2]])
        return renamed


def _members(kind: Any) -> tuple[Any, ...]:
    """Of a union each member: msgspec knows a union of objects only where a field tells them apart."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """`myllm.server.native.bodies.ChatBody` is `NativeChatBody`, unless two would be called so."""
    short = {name: _QUALIFIED.sub(lambda match: match[1].capitalize() + match[2], name) for name in names}
    counts = Counter(short.values())
    return {name: told if counts[told] == 1 else name for name, told in short.items()}
