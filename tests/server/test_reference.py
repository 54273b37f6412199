"""What the API says of itself: the reference against the routes, the types, and a running server."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from myllm.chat.library import TemplateLibrary, templates_folder
from myllm.config import ServiceSettings, Settings
from myllm.keys import Keyring, KeyStore
from myllm.manager import ModelManager
from myllm.server.app import create_app
from myllm.server.readiness import Readiness
from myllm.server.reference.chapters import chapters
from myllm.server.reference.openapi import document
from myllm.server.reference.page import render_page
from myllm.server.reference.wording import prose, told
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.store.catalog import Catalog
from myllm.store.store import Store

SETTINGS = Settings(services={"lab": ServiceSettings(prefix="/lab/code", models=("tiny",))})
CHAPTERS = chapters(SETTINGS)
OPERATIONS = [operation for chapter in CHAPTERS for operation in chapter.operations]
DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(CHAPTERS, "1.2.3")))


def served(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[str]:
    """As the reference names them: `GET /api/models/{name}`. A GET answers HEAD too, and that goes without saying."""
    for route in routes:
        if isinstance(route, Mount):
            yield from served(route.routes, prefix + route.path)
        elif isinstance(route, Route) and isinstance(route.endpoint, Starlette):
            yield from served(route.endpoint.routes, prefix)
        elif isinstance(route, Route):
            methods = route.methods or set()
            for method in methods - {"HEAD"} if "GET" in methods else methods:
                yield f"{method} {prefix}{route.path.replace(':path}', '}')}"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Starlette:
    home = tmp_path_factory.mktemp("home")
    store = Store(home, catalog=Catalog.load())
    library = TemplateLibrary(templates_folder())
    service = Service(SETTINGS, store, SessionStore(home / "s.db"), ModelManager(store, SETTINGS), library)
    return create_app(service, Readiness(), Keyring(KeyStore(home / "k.db")))


def test_every_route_is_told_and_nothing_is_told_that_is_no_route(app: Starlette) -> None:
    assert {f"{operation.method} {operation.path}" for operation in OPERATIONS} == set(served(app.routes))


def test_no_operation_is_told_twice() -> None:
    names = [f"{operation.method} {operation.path}" for operation in OPERATIONS]

    assert len(names) == len(set(names)) > 40
    assert sum(len(methods) for methods in DOCUMENT["paths"].values()) == len(names)


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]

    assert len(ids) == len(set(ids))


def test_every_operation_says_in_a_few_words_what_it_does() -> None:
    assert [operation.path for operation in OPERATIONS if not 5 <= len(operation.summary) <= 80 or operation.summary.endswith(".")] == []


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    targets = {f"#/components/{kind}/{name}" for kind, found in DOCUMENT["components"].items() for name in found}

    refs = set(re.findall(r'"\$ref": "(.*?)"', text))
    assert len(refs) > 50 and refs - targets == set()
    assert {target for target in targets - refs if "/schemas/" in target or "/responses/" in target} == set()


def test_names_of_types_do_not_tell_of_modules() -> None:
    assert [name for name in DOCUMENT["components"]["schemas"] if not re.fullmatch(r"[A-Z]\w+", name)] == []


def test_every_parameter_of_a_path_is_told() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            in_path = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
            assert in_path == re.findall(r"\{(\w+)\}", path)


def test_a_range_that_the_server_checks_is_in_the_document() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    assert {"type": "number", "minimum": 0, "maximum": 2} in schemas["GatewayChatBody"]["properties"]["temperature"]["anyOf"]
    limit = next(each for each in DOCUMENT["paths"]["/api/sessions"]["get"]["parameters"] if each["name"] == "limit")
    assert limit == {
        "name": "limit",
        "in": "query",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    }


def test_what_needs_no_key_says_so() -> None:
    public = {path for path, methods in DOCUMENT["paths"].items() for operation in methods.values() if operation.get("security") == []}

    assert {"/", "/health"} <= public and not public & {"/metrics", "/docs", "/openapi.json", "/models"}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_errors_have_the_form_of_their_dialect(chapter: Any) -> None:
    name = chapter.error.__name__
    for operation in chapter.operations:
        responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
        for status in {*operation.errors} - {status for status, _ in operation.other_answers}:
            ref = responses[str(status)]["$ref"].rpartition("/")[2]
            schema = DOCUMENT["components"]["responses"][ref]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith(name)


WITH_BODY = [each for each in OPERATIONS if each.body is not None and each.body_media == "application/json"]


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda each: f"{each.method}-{each.path}")
def test_the_example_of_a_body_is_one(operation: Any) -> None:
    content = DOCUMENT["paths"][operation.path][operation.method.lower()]["requestBody"]["content"]["application/json"]

    body = operation.body
    for member in get_args(body) if get_origin(body) is UnionType else (body,):
        try:
            msgspec.convert(content["example"], member)
            return
        except msgspec.ValidationError as error:
            problem = error
    pytest.fail(str(problem))


class Html(HTMLParser):
    """The ids and the local links of a page, what it loads, and its style and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: list[str] = []
        self.inline: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        self.links |= {given["href"][1:]} if given.get("href", "").startswith("#") else set()
        self.loaded += [f"{tag} {name}" for name in ("src", "srcset", "style", "onclick", "onload") if name in given]
        self.loaded += [tag] if tag in ("link", "iframe", "object", "embed", "img") else []
        if tag not in ("meta", "input", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.inline[self.open[-1]] = data


def test_the_page_tells_all_that_the_document_does() -> None:
    html = render_page(DOCUMENT).html
    like_others = {chapter.title for chapter in CHAPTERS if chapter.like}

    page = Html(html)
    assert page.open == [] and page.loaded == []
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            assert operation["operationId"] in page.ids or like_others & {*operation["tags"]}, path
    assert page.links <= page.ids and len(page.links) > 50
    assert {f"type-{name}" for name in DOCUMENT["components"]["schemas"]} <= page.ids


def test_the_page_may_run_its_own_script_and_nothing_else() -> None:
    rendered = render_page(DOCUMENT)

    inline = Html(rendered.html).inline
    for kind in ("style", "script"):
        assert f"{kind}-src 'sha256-{b64encode(hashlib.sha256(inline[kind].encode()).digest()).decode()}'" in rendered.policy
    assert rendered.policy.startswith("default-src 'none'") and "unsafe" not in rendered.policy


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "string"),
        ({"type": "string", "minLength": 1}, "string, not empty"),
        ({"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, "integer, 1 or more"),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "integer"),
        ({"type": "number", "minimum": -2, "maximum": 2}, "number, -2 to 2"),
        ({"type": "number", "maximum": 0.5}, "number, up to 0.5"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 16}, "array of string, up to 16"),
        ({"type": "array", "items": {}}, "array"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({"type": "object"}, "object"),
        ({"anyOf": [{"type": "boolean"}, {"enum": ["low"]}, {"type": "null"}]}, 'boolean or <code>"low"</code>'),
        ({"$ref": "#/components/schemas/Tag"}, '<a href="#type-Tag"><code>Tag</code></a>'),
        ({"const": True}, "<code>true</code>"),
        ({"contentMediaType": "application/octet-stream"}, "bytes"),
        ({}, "anything"),
    ],
)  # fmt: skip
def test_a_schema_is_told_in_a_few_words(schema: dict[str, Any], words: str) -> None:
    assert told(schema).replace("&quot;", '"') == words


def test_a_description_is_escaped_and_its_words_are_code() -> None:
    assert prose("a <b> & `x < y`\n  that") == "a &lt;b&gt; &amp; <code>x &lt; y</code> that"
    assert prose("one ` alone") == "one ` alone"
