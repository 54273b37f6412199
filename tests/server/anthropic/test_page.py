"""docs/anthropic.md against the types that bodies are checked with."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from myllm.server.anthropic.bodies import UNSUPPORTED, MessagesBody
from myllm.server.anthropic.errors import TYPES

PAGE = (Path(__file__).parents[3] / "docs" / "anthropic.md").read_text()


def named_in(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_the_page_names_each_field_and_no_other() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.split("### Streaming")[0], re.M)
    refused = PAGE.split("| `service_tier`")[1].split("are 400 and named")[0].split("\n\n")[1]

    fields = {field.name for field in msgspec.structs.fields(MessagesBody)}
    assert named_in(" ".join(rows)) | set(UNSUPPORTED) == fields
    assert set(UNSUPPORTED) <= named_in(refused)


def test_the_page_tells_the_type_of_each_status() -> None:
    table = {status: kind for statuses, kind in re.findall(r"^\| ([\d, ]+) \| `(\w+)`", PAGE, re.M) for status in statuses.split(", ")}

    assert table == {str(status): kind for status, kind in TYPES.items()} | {
        "400": "invalid_request_error",
        "405": "invalid_request_error",
        "500": "api_error",
        "502": "api_error",
    }
