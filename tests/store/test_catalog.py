from __future__ import annotations

from pathlib import Path

import pytest

from myllm.errors import ConfigInvalid
from myllm.store.catalog import BUNDLED_NAME, Catalog, bundled_model
from myllm.store.metadata import read_metadata
from myllm.store.names import validate_name

CAPABILITIES = {"completion", "chat", "tools", "thinking", "insert", "embeddings", "rerank"}


def test_the_catalogue_that_ships_is_well_formed() -> None:
    for entry in Catalog.load():
        assert [validate_name(name) for name in (entry.name, *entry.aliases)]
        assert set(entry.capabilities) <= CAPABILITIES
        assert entry.file.endswith(".gguf")
        assert entry.repo is None or entry.repo.count("/") == 1


def test_only_the_bundled_model_has_no_repository() -> None:
    assert [entry.name for entry in Catalog.load() if entry.repo is None] == [BUNDLED_NAME]


def test_the_bundled_models_entry_says_what_its_file_says() -> None:
    entry = Catalog.load().find(BUNDLED_NAME)
    metadata = read_metadata(bundled_model())

    assert entry is not None
    assert bundled_model().match(entry.file)
    assert (entry.context, entry.capabilities, entry.license) == (metadata.context_length, metadata.capabilities, metadata.license)


def test_an_entry_is_found_by_alias_family_and_without_case() -> None:
    catalog = Catalog.load()

    found = [catalog.find(asked) for asked in ("qwen3:0.6b", "Qwen/Qwen3-0.6B", "qwen3", "QWEN3:0.6B", "qwen3:0.6b:latest")]

    assert {entry.name for entry in found if entry} == {"qwen3:0.6b"}
    assert None not in found
    assert catalog.find("no-such-model") is None


@pytest.mark.parametrize(
    "text",
    [
        "models = 1",
        "[models]\na = 1",
        '[models.a]\nfile = "a.gguf"',
        "not toml",
        '[models.a]\nfile="a"\nfamily="f"\ncontext=1\ncapabilities=[]\nlicense="l"\nsurprise=1',
        '[models.a]\nfile="a"\nfamily="f"\ncontext=1\ncapabilities=[]\nlicense="l"\naliases=["a"]',
    ],
)
def test_a_malformed_catalogue_is_one_error_with_its_path(tmp_path: Path, text: str) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(text)

    with pytest.raises(ConfigInvalid, match=r"catalog\.toml"):
        Catalog.load(file)


def test_a_missing_catalogue_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid):
        Catalog.load(tmp_path / "none.toml")
