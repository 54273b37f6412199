"""docs/http.md is run: each of its examples against a real server, its tables against the types that bodies are checked with.

An example is a fenced block of `bash`, `python` or `javascript`, and the fenced block after it is what it prints: `json`
is compared as JSON, `text` as text; `…` stands for any text in both. Only the address of the server is replaced.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from live_server import LiveServer
from starlette.routing import BaseRoute, Mount, Route

from myllm.chat.library import TemplateLibrary, templates_folder
from myllm.config import Settings
from myllm.manager import ModelManager
from myllm.server.app import Readiness, create_app
from myllm.server.bodies import MAX_NESTING
from myllm.server.native import bodies
from myllm.service import Service
from myllm.sessions import SessionStore
from myllm.sessions.session_store import MAX_LIST
from myllm.store.catalog import Catalog
from myllm.store.store import Store
from myllm.types import FinishReason, Role, SamplingParams

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "http.md").read_text()
README = (ROOT / "README.md").read_text()
BASE_URL = "http://127.0.0.1:8000"

# What differs between machines and runs; of these only the kind of the value is compared.
VARYING = {"cached_tokens", "uptime_s", "total", "available", "cells_used", "memory_bytes", "estimated_bytes", "expires_at", "embeddings"}

BODIES: dict[str, type[msgspec.Struct]] = {
    "POST /api/chat": bodies.ChatBody,
    "POST /api/generate": bodies.GenerateBody,
    "POST /api/embeddings": bodies.EmbeddingsBody,
    "POST /api/tokenize": bodies.TokenizeBody,
    "POST /api/detokenize": bodies.DetokenizeBody,
    "POST /api/models/pull": bodies.PullBody,
    "POST /api/models/{name}/load": bodies.LoadBody,
    "PATCH /api/sessions/{id}": bodies.TitleBody,
    "POST /api/sessions/{id}/fork": bodies.ForkBody,
    "Options": bodies.Options,
}
FIELDS = [(place, field) for place, body in BODIES.items() for field in msgspec.structs.fields(body)]


class Example(NamedTuple):
    line: int
    language: str
    source: str
    output_language: str
    output: str


def examples(page: str) -> list[Example]:
    """The runnable blocks, each with the block that follows it."""
    blocks = [(page[: m.start()].count("\n") + 1, m[1], m[2]) for m in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)]
    after = [*blocks[1:], (0, "", "")]
    return [Example(*block, *out[1:]) for block, out in zip(blocks, after, strict=True) if block[1] in ("bash", "python", "javascript")]


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the third level or deeper, by heading."""
    parts = re.split(r"^#{2,} (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> dict[str, str]:
    """The lines of a section's table of fields, by field."""
    return {m[1]: m[0] for m in re.finditer(r"^\| `(\w+)` \|.*$", section, re.M)}


def differences(expected: Any, actual: Any, name: str = "") -> Iterator[str]:
    """Where an answer is not what the page shows."""
    if name in VARYING or expected is None or actual is None:
        if kind(expected) is not kind(actual):
            yield f"{name}: {expected!r} is shown and {actual!r} came"
    elif isinstance(expected, dict) and isinstance(actual, dict):
        if expected.keys() != actual.keys():
            yield f"{name or 'the answer'}: shown and not there, or there and not shown: {sorted(expected.keys() ^ actual.keys())}"
        for key in expected.keys() & actual.keys():
            yield from differences(expected[key], actual[key], key)
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for one, other in zip(expected, actual, strict=True):
            yield from differences(one, other, name)
    elif not (is_like(expected, actual) if isinstance(expected, str) and isinstance(actual, str) else expected == actual):
        yield f"{name}: {expected!r} is shown and {actual!r} came"


def kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def is_like(shown: str, text: str) -> bool:
    return re.fullmatch(".*?".join(map(re.escape, shown.strip().split("…"))), text.strip(), re.S) is not None


def endpoints(routes: Iterable[BaseRoute], prefix: str = "") -> set[str]:
    """As the page's headings name them: `GET /api/models/{name}`."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Mount):
            found |= endpoints(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            found |= {f"{method} {prefix}{route.path.replace(':path}', '}')}" for method in (route.methods or set()) - {"HEAD"}}
    return found


def run(example: Example, url: str, folder: Path) -> str:
    """What the example prints; fails where it fails."""
    programs = {"bash": ["bash", "-eu"], "python": [sys.executable, "-"], "javascript": ["node", "--input-type=module"]}
    program = programs[example.language]
    for needed in (program[0], *re.findall(r"^(curl)\b", example.source, re.M)):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    source = example.source.replace(BASE_URL, url)
    done = subprocess.run(program, input=source, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("home"))
    live.http.post("/api/models/tiny/load").raise_for_status()
    yield live
    live.stop()


@pytest.mark.parametrize("example", examples(PAGE), ids=lambda example: f"{example.language}-line-{example.line}")
def test_an_example_prints_what_the_page_shows(server: LiveServer, tmp_path: Path, example: Example) -> None:
    assert BASE_URL in example.source and example.output_language in ("json", "text")

    output = run(example, server.url, tmp_path)

    if example.output_language == "json":
        assert list(differences(json.loads(example.output), json.loads(output))) == []
    else:
        assert is_like(example.output, output), output


@pytest.mark.parametrize("command", re.findall(r"^curl .*", README, re.M))
def test_a_curl_command_of_the_readme_gets_an_answer(server: LiveServer, tmp_path: Path, command: str) -> None:
    answer = json.loads(run(Example(0, "bash", command.replace("curl ", "curl -s "), "", ""), server.url, tmp_path))

    assert BASE_URL in command
    assert answer["message"]["content"] and answer["finish_reason"] == "stop"


def test_the_readme_has_a_first_answer() -> None:
    assert len(re.findall(r"^curl .*", README, re.M)) >= 1


def test_there_is_an_example_in_each_language() -> None:
    assert {example.language for example in examples(PAGE)} == {"bash", "python", "javascript"}


def test_every_block_of_json_is_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)

    assert blocks and all(json.loads(block) is not None for block in blocks)


def test_each_endpoint_of_the_server_has_its_section_and_no_other_has_one(tmp_path: Path) -> None:
    store, settings = Store(tmp_path, catalog=Catalog.load()), Settings()
    service = Service(settings, store, SessionStore(tmp_path / "s.db"), ModelManager(store, settings), TemplateLibrary(templates_folder()))
    app = create_app(service, Readiness())

    served = endpoints(app.routes)

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


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"cached_tokens": 1}, {"cached_tokens": "1"}),
        ({"expires_at": 1.5}, {"expires_at": None}),
        ([1], [1, 2]),
        ({"a": "x…z"}, {"a": "xy"}),
        ({"a": True}, {"a": "true"}),
    ],
)
def test_an_answer_that_differs_from_the_page_is_noticed(shown: Any, came: Any) -> None:
    assert len(list(differences(shown, came))) == 1


def test_an_answer_may_differ_where_the_page_says_so() -> None:
    shown = {"cached_tokens": 1, "id": "…", "at": "…Z", "embeddings": [1.5], "n": [1, {"budget": None}]}
    came = {"cached_tokens": 7, "id": "abc", "at": "2026Z", "embeddings": [0.1, 0.2], "n": [1, {"budget": None}]}

    assert list(differences(shown, came)) == []
