from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from myllm.errors import ConfigInvalid
from myllm.store.catalog import BUNDLED_NAME, Catalog, bundled_model
from myllm.store.metadata import read_metadata
from myllm.store.names import validate_name

CAPABILITIES = ("completion", "chat", "tools", "thinking", "insert", "vision", "embeddings", "rerank")
TEMPLATES = Path(__file__).parents[2] / "templates"
PROMISED = [
    *("llama-3-8b", "llama3.1", "llama3.2:1b", "llama3.2:3b", "mistral-small"),
    *("devstral", "gpt-oss:20b", "qwen3:30b", "qwen2.5-coder:14b", "gemma3"),
    *("phi-4", "deepseek-r1:8b", "nomic-embed-text", "bge-m3", "bge-reranker-v2-m3"),
]
# What users of Ollama and LM Studio type, and what it gets them.
TYPED = {
    "llama3": "llama-3-8b",
    "llama3:8b": "llama-3-8b",
    "llama3.1:8b": "llama3.1",
    "llama3.1:latest": "llama3.1",
    "llama3.2": "llama3.2:3b",
    "Llama-3.2-3B-Instruct": "llama3.2:3b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
    "mistral-small3.2": "mistral-small",
    "mistral:7b": "mistral",
    "devstral:24b": "devstral",
    "gpt-oss": "gpt-oss:20b",
    "openai/gpt-oss-20b": "gpt-oss:20b",
    "qwen3": "qwen3:8b",
    "qwen3:30b-a3b": "qwen3:30b",
    "qwen2.5-coder": "qwen2.5-coder:7b",
    "gemma3:4b": "gemma3",
    "google/gemma-3-4b-it": "gemma3",
    "phi4": "phi-4",
    "deepseek-r1": "deepseek-r1:8b",
    "BAAI/bge-m3": "bge-m3",
    "BAAI/bge-reranker-v2-m3": "bge-reranker-v2-m3",
}


def test_the_catalogue_that_ships_is_well_formed() -> None:
    for entry in Catalog.load():
        assert [validate_name(name) for name in (entry.name, *entry.aliases)]
        assert list(entry.capabilities) == [word for word in CAPABILITIES if word in entry.capabilities]
        assert entry.repo is None or re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", entry.repo)
        assert re.fullmatch(r"(?:[\w.-]+/)?[A-Za-z0-9][\w.-]*\.gguf", entry.file) and ".." not in entry.file
        assert entry.template is None or (TEMPLATES / f"{entry.template}.jinja").is_file()
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", entry.license) and entry.family
        assert 512 <= entry.context <= 1 << 20


def test_the_catalogue_has_what_people_ask_for() -> None:
    catalog = Catalog.load()

    assert len(catalog.entries) >= 25
    assert [name for name in PROMISED if name not in {entry.name for entry in catalog}] == []


@pytest.mark.parametrize(("asked", "name"), TYPED.items())
def test_a_name_that_people_type_is_a_model(asked: str, name: str) -> None:
    entry = Catalog.load().find(asked)

    assert entry is not None and entry.name == name


def test_no_two_names_of_the_catalogue_are_one_but_for_case_or_latest() -> None:
    names = [name.casefold().removesuffix(":latest") for entry in Catalog.load() for name in (entry.name, *entry.aliases)]

    assert sorted(name for name, count in Counter(names).items() if count > 1) == []


def test_no_file_stands_for_two_models() -> None:
    files = Counter(Path(entry.file).name for entry in Catalog.load())

    assert [file for file, count in files.items() if count > 1] == []


def test_every_reranker_scores_and_every_chat_model_completes() -> None:
    for entry in Catalog.load():
        assert ("rerank" in entry.capabilities) == ("rerank" in entry.name)
        assert ("chat" in entry.capabilities) == ("completion" in entry.capabilities)


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

    found = [catalog.find(asked) for asked in ("qwen3:0.6b", "Qwen/Qwen3-0.6B", "QWEN3:0.6B", "qwen3:0.6b:latest")]
    family = catalog.find("qwen3.5")

    assert {entry.name for entry in found if entry} == {"qwen3:0.6b"}
    assert None not in found
    assert family is not None and family.name == "qwen3.5:9b"
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
