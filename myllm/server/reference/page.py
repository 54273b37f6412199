"""`/docs`: the OpenAPI document as a page to read, by dialect, with a box to search in. It needs nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from myllm.server.pages import Page
from myllm.server.reference.wording import prose, told

SEARCH = Path(__file__).with_name("search.js").read_text(encoding="utf-8")


def render_page(document: dict[str, Any]) -> Page:
    info = document["info"]
    chapters = "\n".join(_chapter(tag, document) for tag in document["tags"])
    body = (
        f"<h1>The API of {escape(info['title'])}</h1>\n<p class=quiet>Version {escape(info['version'])} · "
        f'<a href="/openapi.json">OpenAPI</a></p>\n<p>{prose(info["description"])}</p>\n'
        '<input type="search" id="search" placeholder="Search paths, fields and words" aria-label="Search">\n'
        f"<main>{chapters}\n<section><h2>Types</h2>\n{_types(document)}</section></main>"
    )
    return Page(f"{info['title']}: the API", body, SEARCH)


def _chapter(tag: dict[str, str], document: dict[str, Any]) -> str:
    """A chapter that is like another is told in its description."""
    operations = [
        _operation(method, path, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"] and "x-like" not in tag
    ]
    return f"<section><h2>{escape(tag['name'])}</h2>\n<p>{prose(tag['description'])}</p>\n{''.join(operations)}</section>"


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [*_introduction(operation), *_parameters(operation), *_body(method, path, operation, document), *_answers(operation, document)]
    return (
        f'<details id="{escape(operation["operationId"])}"><summary><span class=method>{method.upper()}</span> '
        f"<span class=path>{escape(path)}</span> <span class=quiet>{escape(operation['summary'])}</span></summary>\n"
        f"{''.join(parts)}</details>\n"
    )


def _introduction(operation: dict[str, Any]) -> Iterator[str]:
    if "description" in operation:
        yield f"<p>{prose(operation['description'])}</p>\n"
    if operation.get("security") == []:
        yield "<p>Needs no key.</p>\n"


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    for place in ("path", "query"):
        found = [each for each in operation.get("parameters", []) if each["in"] == place]
        if found:
            schemas = {each["name"]: each["schema"] | {"description": each.get("description", "")} for each in found}
            yield f"<h3>In the {place}</h3>\n{_table(schemas, [each['name'] for each in found if each['required']])}"


def _body(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Its own fields here; those of what it holds under the types."""
    body = operation.get("requestBody", {"content": {}})
    for media, form in body["content"].items():
        title = "Body" if body["required"] else "Body, which may be left out"
        yield f"<h3>{title}</h3>\n<p><code>{escape(media)}</code> {told(form['schema'])}</p>\n"
        if "$ref" in form["schema"]:
            yield _type(document["components"]["schemas"][form["schema"]["$ref"].rpartition("/")[2]])
        if "example" in form:
            example = json.dumps(form["example"], ensure_ascii=False)
            yield f"<pre>{escape(f'{method.upper()} {path}')}\n{escape(example)}</pre>\n"


def _answers(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """A row for each form, with all statuses that have it."""
    statuses: dict[str, list[str]] = {}
    for status, response in operation["responses"].items():
        name = response.get("$ref", "").rpartition("/")[2]
        content = (document["components"]["responses"][name] if name else response).get("content", {})
        forms = "<br>".join(f"<code>{escape(media)}</code> {told(_carried(form['schema']))}" for media, form in content.items())
        statuses.setdefault(forms or "no body", []).append(status)
    rows = "".join(f"<tr><td>{', '.join(found)}</td><td>{forms}</td></tr>\n" for forms, found in statuses.items())
    yield f"<h3>Answers</h3>\n<table class=answers>{rows}</table>\n"


def _carried(schema: dict[str, Any]) -> dict[str, Any]:
    """What a server-sent event's data holds; of any other form, the form itself."""
    data = schema.get("properties", {}).get("data", {})
    carried: dict[str, Any] = data.get("anyOf", [data])[-1].get("contentSchema", schema)
    return carried


def _types(document: dict[str, Any]) -> str:
    return "".join(
        f'<details id="type-{escape(name)}"><summary><span class=path>{escape(name)}</span> '
        f"<span class=quiet>{prose(schema.get('description', ''))}</span></summary>\n{_type(schema)}</details>\n"
        for name, schema in document["components"]["schemas"].items()
    )


def _type(schema: dict[str, Any]) -> str:
    if schema.get("type") == "object":
        return _table(schema.get("properties", {}), schema.get("required", []))
    return f"<p>{told(schema)}</p>"


def _table(fields: dict[str, dict[str, Any]], required: list[str]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{told(schema)}</td><td>{_default(name, schema, required)}</td>"
        f"<td>{prose(schema.get('description', ''))}</td></tr>\n"
        for name, schema in fields.items()
    )
    return f"<table><tr><th>name</th><th>takes</th><th>default</th><th></th></tr>\n{rows}</table>\n"


def _default(name: str, schema: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    default = schema.get("default")
    return "" if default is None else f"<code>{escape(json.dumps(default, ensure_ascii=False))}</code>"
