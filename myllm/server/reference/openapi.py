"""`document`: the operations of all dialects as one OpenAPI 3.1 document. Pure; nothing here knows a dialect.

Source: the OpenAPI Specification, 3.1.1. Its schemas are JSON Schema, as msgspec writes it for the types that bodies are validated
with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from myllm.server.operations import Operation
from myllm.server.reference.chapters import Chapter
from myllm.server.reference.examples import example_of
from myllm.server.reference.schemas import REF, Schemas

PATH_PARAMETERS = {
    "name": "An installed model. A slash in it may stand as it is or as `%2F`.",
    "model": "An installed model. A slash in it may stand as it is or as `%2F`.",
    "id": "As an answer told it.",
}
ALWAYS = (403, 500, 503)  # a page of another site; our own faults; too busy, or stopping
WITH_KEYS = (401, 429)
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"api_key": []}, {}]  # none where no key is configured


def document(chapters: Sequence[Chapter], version: str) -> dict[str, Any]:
    return Document(chapters).told(version)


class Document:
    """schemas: of all types. errors: the answers that several operations share, by name."""

    def __init__(self, chapters: Sequence[Chapter]) -> None:
        self.chapters = chapters
        self.schemas = Schemas(kind for chapter in chapters for kind in _kinds(chapter))
        self.errors: dict[str, dict[str, Any]] = {}

    def told(self, version: str) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for chapter in self.chapters:
            for operation in chapter.operations:
                paths.setdefault(operation.path, {})[operation.method.lower()] = self._operation(operation, chapter)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "MyLLM",
                "version": version,
                "description": "A server for GGUF models: several dialects over one pool of models. Unknown fields of a body are ignored.",
            },
            "tags": [_tag(chapter) for chapter in self.chapters],
            "paths": paths,
            "security": SECURITY,
            "components": {"schemas": self._shown_schemas(), "responses": self.errors, "securitySchemes": SECURITY_SCHEMES},
        }

    def _shown_schemas(self) -> dict[str, Any]:
        """All but those of queries, whose fields stand as parameters."""
        queries = {self.schemas.of(each.query)["$ref"] for chapter in self.chapters for each in chapter.operations if each.query}
        return {name: schema for name, schema in self.schemas.components.items() if REF.format(name=name) not in queries}

    def _operation(self, operation: Operation, chapter: Chapter) -> dict[str, Any]:
        told: dict[str, Any] = {
            "tags": [chapter.title],
            "operationId": f"{operation.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', operation.path).rstrip('_')}",
            "summary": operation.summary,
        }
        if operation.description:
            told["description"] = operation.description
        parameters = [*_path_parameters(operation.path), *self._query_parameters(operation)]
        if parameters:
            told["parameters"] = parameters
        if operation.body is not None:
            told["requestBody"] = self._request_body(operation)
        told["responses"] = self._responses(operation, chapter)
        if operation.is_public:
            told["security"] = []
        return told

    def _query_parameters(self, operation: Operation) -> Iterator[dict[str, Any]]:
        if operation.query is None:
            return
        query = self.schemas.resolved(self.schemas.of(operation.query))
        for name, schema in query["properties"].items():
            yield {"name": name, "in": "query", "required": name in query["required"], "schema": schema}

    def _request_body(self, operation: Operation) -> dict[str, Any]:
        """JSON with an example, or bytes as they are."""
        content: dict[str, Any] = {"schema": {"contentMediaType": operation.body_media}}
        if operation.body is not bytes:
            schema = self.schemas.of(operation.body)
            content = {"schema": schema, "example": operation.example or example_of(schema, self.schemas)}
        return {"required": operation.is_body_required, "content": {operation.body_media: content}}

    def _responses(self, operation: Operation, chapter: Chapter) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if operation.answer is not None:
            content[operation.media] = {"schema": self.schemas.of(operation.answer)}
        content |= {media: {"schema": {"type": "string"}} for media in operation.other_media}
        if operation.event is not None:
            item = self.schemas.of_any(operation.event, chapter.stream_error)
            content[operation.event_media] = {"schema": _event(operation, item)}
        answer = {"description": "What was asked for", **({"content": content} if content else {})}
        others = {status: _response(status, self.schemas.of(kind) if kind else None) for status, kind in operation.other_answers}
        errors = {status: self._error(status, chapter) for status in {*operation.errors, *_common_errors(operation)} - others.keys()}
        return {str(operation.status): answer} | {str(status): told for status, told in sorted((errors | others).items())}

    def _error(self, status: int, chapter: Chapter) -> dict[str, Any]:
        schema = self.schemas.of(chapter.error)
        name = f"{schema['$ref'].rpartition('/')[2]}{status}"
        self.errors[name] = _response(status, schema)
        return {"$ref": f"#/components/responses/{name}"}


def _tag(chapter: Chapter) -> dict[str, Any]:
    return {"name": chapter.title, "description": chapter.description} | ({"x-like": chapter.like} if chapter.like else {})


def _kinds(chapter: Chapter) -> Iterator[Any]:
    yield from (chapter.error, chapter.stream_error)
    for each in chapter.operations:
        kinds = (each.body, each.query, each.answer, each.event, *(kind for _, kind in each.other_answers))
        yield from (kind for kind in kinds if kind not in (None, bytes))


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        described = {"description": PATH_PARAMETERS[name]} if name in PATH_PARAMETERS else {}
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}, **described}


def _event(operation: Operation, schema: dict[str, Any]) -> dict[str, Any]:
    """One item of the stream: a line is JSON itself, a server-sent event carries it as its data."""
    if operation.event_media != "text/event-stream":
        return schema
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    if operation.last_data is not None:
        data = {"anyOf": [{"const": operation.last_data}, data]}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


def _common_errors(operation: Operation) -> Iterator[int]:
    yield from ALWAYS
    if not operation.is_public:
        yield from WITH_KEYS
    if operation.body is not None:
        yield 413


def _response(status: int, schema: dict[str, Any] | None) -> dict[str, Any]:
    """schema: None where there is no body."""
    content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    return {"description": HTTPStatus(status).phrase, **content}
