"""docs/http.md is held against the code: its tables against the types that bodies are checked with, its headings against the
routes, its limits against the settings. Its examples are run by test_doc_examples.py, as those of every page are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from doc_examples import examples
from starlette.routing import BaseRoute, Mount, Route

from myllm.chat.library import TemplateLibrary, templates_folder
from myllm.config import Settings
from myllm.keys import Keyring, KeyStore
from myllm.manager import ModelManager
from myllm.server.app import create_app
from myllm.server.bodies import MAX_NESTING
from myllm.server.native import bodies
from myllm.server.ranking import RerankBody
from myllm.server.readiness import Readiness
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.sessions.session_store import MAX_LIST
from myllm.store.catalog import Catalog
from myllm.store.store import Store
from myllm.types import FinishReason, Role, SamplingParams

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "http.md").read_text()
BODIES: dict[str, type[msgspec.Struct]] = {
    "POST /api/chat": bodies.ChatBody,
    "POST /api/generate": bodies.GenerateBody,
    "POST /api/embeddings": bodies.EmbeddingsBody,
    "POST /api/rerank": RerankBody,
    "POST /api/tokenize": bodies.TokenizeBody,
    "POST /api/detokenize": bodies.DetokenizeBody,
    "POST /api/models/pull": bodies.PullBody,
    "POST /api/models/{name}/load": bodies.LoadBody,
    "PATCH /api/sessions/{id}": bodies.TitleBody,
    "POST /api/sessions/{id}/fork": bodies.ForkBody,
    "Options": bodies.Options,
}
NATIVE = re.compile(r" (/|/health|/api/(?!v1/).*)$")
FIELDS = [(place, field) for place, body in BODIES.items() for field in msgspec.structs.fields(body)]


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the third level or deeper, by heading."""
    parts = re.split(r"^#{2,} (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> dict[str, str]:
    """The lines of a section's table of fields, by field."""
    return {m[1]: m[0] for m in re.finditer(r"^\| `(\w+)` \|.*$", section, re.M)}


def endpoints(routes: Iterable[BaseRoute], prefix: str = "") -> set[str]:
    """As the page's headings name them: `GET /api/models/{name}`."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Mount):
            found |= endpoints(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            found |= {f"{method} {prefix}{route.path.replace(':path}', '}')}" for method in (route.methods or set()) - {"HEAD"}}
    return found


def test_there_is_an_example_in_each_language() -> None:
    assert {example.language for example in examples(PAGE)} == {"bash", "python", "javascript"}


def test_every_block_of_json_is_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)

    assert blocks and all(json.loads(block) is not None for block in blocks)


def test_each_endpoint_of_the_server_has_its_section_and_no_other_has_one(tmp_path: Path) -> None:
    store, settings = Store(tmp_path, catalog=Catalog.load()), Settings()
    service = Service(settings, store, SessionStore(tmp_path / "s.db"), ModelManager(store, settings), TemplateLibrary(templates_folder()))
    app = create_app(service, Readiness(), Keyring(KeyStore(tmp_path / "k.db")))

    served = {endpoint for endpoint in endpoints(app.routes) if NATIVE.search(endpoint)}

    assert served == {heading for heading in sections(PAGE) if re.match(r"[A-Z]+ /", heading)}
    assert {"GET /health", "POST /api/chat"} <= served


@pytest.mark.parametrize("place", BODIES)
def test_the_table_of_a_body_names_its_fields_and_no_others(place: str) -> None:
    table = rows(sections(PAGE)[place])

    assert set(table) == {field.name for field in msgspec.structs.fields(BODIES[place])}


@pytest.mark.parametrize(("place", "field"), FIELDS, ids=[f"{place.split('/')[-1]}-{field.name}" for place, field in FIELDS])
def test_a_field_is_told_with_its_range_and_default(place: str, field: msgspec.structs.FieldInfo) -> None:
    row = rows(sections(PAGE)[place])[field.name]

    for told in [*ranges(field.type), *defaults(field, place)]:
        assert told in row


def ranges(hint: Any) -> Iterator[str]:
    """How the page has to write the bounds of a type; a bound of 31 bits or more is none worth telling."""
    info = msgspec.inspect.type_info(hint)
    if isinstance(info, msgspec.inspect.DictType):
        info = info.value_type
    for part in info.types if isinstance(info, msgspec.inspect.UnionType) else [info]:
        low, high = getattr(part, "ge", None), getattr(part, "le", None)
        if low is not None and high is not None and high < 2**63 - 1:
            yield f"{low:.0f} or more" if high >= 2**31 - 1 else f"{low:.0f} to {high:.0f}"
        if (longest := getattr(part, "max_length", None)) and longest < 1000:
            yield f"up to {longest}"


def defaults(field: msgspec.structs.FieldInfo, place: str) -> Iterator[str]:
    if field.required:
        yield "| required |"
    elif isinstance(field.default, bool):
        yield f"| {str(field.default).lower()} |"
    elif place == "Options" and isinstance(value := getattr(SamplingParams(), field.name), int | float):
        yield f"| {str(value).lower()} |"


@pytest.mark.parametrize("word", [*Role.__args__, *FinishReason, *bodies.KVCacheType.__args__], ids=str)  # type: ignore[attr-defined]
def test_every_word_that_a_field_may_hold_is_named(word: str) -> None:
    assert f"`{word.value if isinstance(word, FinishReason) else word}`" in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    settings = Settings()
    limits = [
        f"at most {settings.max_body_bytes // 10**6} MB",
        f"at most {settings.max_messages:,} messages",
        f"at most {MAX_NESTING} deep",
        f"after each {settings.keepalive_comment_s:.0f} seconds",
        f"for {settings.drain_timeout_s:.0f} seconds",
        f"`request_timeout`, {settings.request_timeout:,.0f} seconds",
        f"takes 1 to {MAX_LIST:,}",
    ]

    assert [limit for limit in limits if limit not in " ".join(PAGE.split())] == []
