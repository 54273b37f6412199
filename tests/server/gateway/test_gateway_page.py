"""docs/gateway.md against the types that its bodies are checked with, and the settings that it tells of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from myllm.config import Settings
from myllm.server.gateway.bodies import ChatBody

PAGE = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
ROWS = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", PAGE, re.M)}
FIELDS = {field.name: field for field in msgspec.structs.fields(ChatBody)}


def test_the_table_names_every_field_and_no_other() -> None:
    assert set(ROWS) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_told_with_its_default(name: str) -> None:
    default = FIELDS[name].default
    told = {msgspec.NODEFAULT: "required", None: "the default model", False: "false"}.get(default, str(default))

    assert told in ROWS[name].split("|")[3]


def test_ranges_and_choices_are_told() -> None:
    assert "1 or more" in ROWS["max_tokens"] and "0 to 2" in ROWS["temperature"]
    efforts = [word for member in get_args(FIELDS["reasoning"].type) for word in get_args(member)]
    assert len(efforts) == 3 and all(f"`{effort}`" in ROWS["reasoning"] for effort in efforts)


def test_the_timeout_is_the_settings() -> None:
    assert f"{Settings().request_timeout:,.0f} seconds" in PAGE
