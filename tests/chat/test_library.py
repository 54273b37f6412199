"""Choosing a template: names are untrusted, files are the operator's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from myllm.chat.library import ChosenTemplate, TemplateLibrary, templates_folder
from myllm.errors import ConfigInvalid, InvalidRequest


@pytest.fixture
def library(tmp_path: Path) -> TemplateLibrary:
    folder = tmp_path / "templates"
    folder.mkdir()
    for name in ("plain", "llama3", "llama3.1"):
        (folder / f"{name}.jinja").write_text(f"I am {name}")
    (tmp_path / "secret.jinja").write_text("secret")
    return TemplateLibrary(folder)


def test_the_packaged_templates_are_found() -> None:
    names = TemplateLibrary().names()

    assert {"llama3", "llama3.1", "chatml", "mistral", "gemma", "phi3", "qwen3", "deepseek-r1", "gpt-oss", "plain"} <= set(names)
    assert (templates_folder() / "plain.jinja").is_file()


def test_an_override_by_name_wins_over_the_files_own(library: TemplateLibrary) -> None:
    assert library.choose("llama3.1", "the GGUF's") == ChosenTemplate("I am llama3.1", "llama3.1")


def test_an_override_by_file_wins_over_the_files_own(library: TemplateLibrary, tmp_path: Path) -> None:
    assert library.choose(tmp_path / "secret.jinja", "the GGUF's") == ChosenTemplate("secret", "secret.jinja")


def test_without_an_override_the_files_own_template_is_taken(library: TemplateLibrary) -> None:
    assert library.choose(None, "the GGUF's") == ChosenTemplate("the GGUF's", "gguf")


@pytest.mark.parametrize("missing", [None, "", " \n"])
def test_plain_is_the_last_resort_and_is_announced(library: TemplateLibrary, missing: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = library.choose(None, missing)

    assert chosen == ChosenTemplate("I am plain", "plain")
    assert "brings no chat template; using 'plain'" in caplog.text


def test_other_choices_are_not_announced(library: TemplateLibrary, caplog: pytest.LogCaptureFixture) -> None:
    library.choose("llama3", None)

    assert caplog.text == ""


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../secret", "..\\secret", "/etc/passwd", "secret", "llama3.jinja", "LLAMA3", "llama3\0", "llama3\n", "x" * 9_999],
)
def test_a_name_that_is_not_in_the_folder_is_refused_with_those_that_are(library: TemplateLibrary, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"there are llama3, llama3\.1, plain") as failure:
        library.get(name)

    assert failure.value.param == "template"
    assert len(failure.value.message) < 200


def test_a_file_that_is_missing_or_not_text_is_a_configuration_error(library: TemplateLibrary, tmp_path: Path) -> None:
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.jinja").write_bytes(b"a" * 1_000_001)

    for name in ("missing.jinja", "binary.jinja", "huge.jinja", ""):
        with pytest.raises(ConfigInvalid, match="the chat template"):
            library.from_file(tmp_path / name)
