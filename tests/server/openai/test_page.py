"""docs/openai.md against the types that bodies are checked with, and against the table of errors."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from myllm.errors import BY_CODE
from myllm.server.openai.bodies import MAX_CHOICES, ChatBody, CompletionBody, EmbeddingsBody, GenerationBody
from myllm.server.openai.errors import describe
from myllm.server.openai.refused import CHAT, COMPLETION
from myllm.server.openai.service_models import UNTIL_CONFIGURED
from myllm.server.openai.websocket import MAX_WAITING

PAGE = (Path(__file__).parents[3] / "docs" / "openai.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
NOT_OVER_HTTP = {"config_invalid", "server_unreachable"}


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def rows(section: str) -> set[str]:
    """The fields of a section's tables; a row may name two."""
    return {name for first in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SECTIONS[section], re.M) for name in re.findall(r"`(\w+)`", first)}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("Generating", fields(GenerationBody)),
        ("POST /v1/chat/completions", fields(ChatBody) - fields(GenerationBody) - set(CHAT)),
        ("POST /v1/completions", fields(CompletionBody) - fields(GenerationBody) - set(COMPLETION)),
        ("POST /v1/embeddings", fields(EmbeddingsBody)),
    ],
)
def test_a_table_names_each_field_and_no_other(section: str, expected: set[str]) -> None:
    assert rows(section) == expected


@pytest.mark.parametrize(("section", "refused"), [("POST /v1/chat/completions", CHAT), ("POST /v1/completions", COMPLETION)])
def test_what_is_refused_is_named(section: str, refused: dict[str, object]) -> None:
    assert [name for name in refused if f"`{name}`" not in SECTIONS[section]] == []


def test_the_page_tells_the_type_of_each_error() -> None:
    table = re.findall(r"^\| ([\d, ]+) \| (.+?) \| (.+?) \|$", SECTIONS["Errors"], re.M)
    types = {status: set(re.findall(r"`(\w+)`", kinds)) for statuses, kinds, _ in table for status in statuses.split(", ")}

    for code, kind in BY_CODE.items():
        assert code in NOT_OVER_HTTP or describe(kind("it broke")).error.type in types[str(kind.status)]


def test_the_limits_and_prefixes_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())

    assert f"takes {MAX_CHOICES} answers at most" in text and f"up to {MAX_WAITING} may wait" in text
    assert [service.prefix for service in UNTIL_CONFIGURED.values() if f"`{service.prefix}`" not in text] == []
