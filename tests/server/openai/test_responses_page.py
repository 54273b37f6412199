"""docs/responses.md against the types that bodies are checked with."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from myllm.server.openai.refused import RESPONSE
from myllm.server.openai.responses_bodies import ItemsQuery, ResponsesBody

PAGE = (Path(__file__).parents[3] / "docs" / "responses.md").read_text()


def named_in(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_the_page_names_each_field_and_no_other() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE, re.M)

    fields = {field.name for field in msgspec.structs.fields(ResponsesBody)}
    assert named_in(" ".join(rows)) == fields - RESPONSE.keys()


def test_the_page_names_what_is_refused() -> None:
    refused = PAGE.split("are 400 and named")[0].rpartition("\n\n")[2]

    assert named_in(refused) == RESPONSE.keys()


def test_the_page_tells_how_a_list_is_cut() -> None:
    query = ItemsQuery()

    assert f"1 to 100 ({query.limit})" in PAGE and f"`{query.order}` (the newest first)" in PAGE
