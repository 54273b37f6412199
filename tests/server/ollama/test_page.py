"""docs/ollama.md against the types that bodies are checked with, the options, the routes and the words of errors."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from myllm.server.ollama.bodies import ChatBody, CreateBody, EmbedBody, GenerateBody, RunBody
from myllm.server.ollama.errors import BUSY, INPUT_TOO_LONG, PROMPT_TOO_LONG
from myllm.server.ollama.making import NOT_TAKEN
from myllm.server.ollama.models import OLLAMA_VERSION
from myllm.server.ollama.operations import OPERATIONS
from myllm.server.ollama.options import DEFAULTS, NUM_KEEP
from myllm.server.ollama.render import LEFT_OUT
from myllm.server.ollama.running import LONGEST_SHIFTED
from myllm.store.ollama_parameters import PARAMETER_NAMES

PAGE = (Path(__file__).parents[3] / "docs" / "ollama.md").read_text()


def section(heading: str) -> str:
    return re.split(r"^#+ ", PAGE.split(heading + "\n")[1], maxsplit=1, flags=re.M)[0]


def rows(heading: str) -> dict[str, str]:
    """The lines of a section's table, by each name in their first column."""
    lines = re.findall(r"^\| (`.+?`) \|(.*)$", section(heading), re.M)
    return {name: rest for names, rest in lines for name in re.findall(r"`(\w+)`", names)}


def fields(body: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(body)}


def test_the_table_of_generate_names_its_fields_and_no_others() -> None:
    assert set(rows("## POST /ollama/api/generate")) == fields(GenerateBody)


def test_chat_has_the_fields_that_its_table_adds() -> None:
    assert set(rows("## POST /ollama/api/chat")) == fields(ChatBody) - fields(RunBody)
    listed = list(rows("## POST /ollama/api/generate"))
    assert set(listed[listed.index("stream") :]) | {"model"} == fields(RunBody)


def test_the_table_of_embed_names_its_fields_and_no_others() -> None:
    assert set(rows("## POST /ollama/api/embed")) == fields(EmbedBody)


def test_create_takes_what_its_table_names_and_refuses_the_rest() -> None:
    heading = "### POST /ollama/api/create"
    refused = section(heading).split("are 400 and named")[0].rpartition("\n\n")[2]

    assert set(rows(heading)) == fields(CreateBody) - {"name", "adapters", *NOT_TAKEN}
    assert set(re.findall(r"`(\w+)`", refused)) == {"adapters", *NOT_TAKEN}


def test_the_options_are_told_with_their_defaults() -> None:
    table = rows("## Options")

    assert set(table) == PARAMETER_NAMES
    for name, default in DEFAULTS.items():
        told = table["repeat_last_n" if name == "penalty_last_n" else name]
        assert told.strip().startswith(f"{default} |"), name
    assert table["num_keep"].strip().startswith(f"{NUM_KEEP} |")


def test_every_endpoint_is_on_the_page_and_no_other() -> None:
    told = set(re.findall(r"\b(GET|POST|DELETE|HEAD) (/ollama/[\w/{}]*)", PAGE))

    assert told == {(each.method, each.path) for each in OPERATIONS}


@pytest.mark.parametrize("words", [BUSY, INPUT_TOO_LONG, PROMPT_TOO_LONG, f"`{OLLAMA_VERSION}`"])
def test_the_words_are_those_of_the_code(words: str) -> None:
    assert words in PAGE


def test_the_header_and_the_bound_are_those_of_the_code() -> None:
    assert LEFT_OUT in PAGE.lower() and LONGEST_SHIFTED == 10 and "after ten contexts" in PAGE
