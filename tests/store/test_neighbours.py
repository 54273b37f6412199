"""The store with the models of other programs beside its own."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from store.gguf_files import write_gguf
from store.test_in_place import LIBRARY, put_hub_file, put_ollama_model

from myllm.errors import Conflict, ModelLoadFailed, ModelNotFound
from myllm.store.catalog import Catalog, bundled_model
from myllm.store.in_place import HubCache, LMStudio, Ollama
from myllm.store.registry import Record
from myllm.store.store import Store

REPO, FILE = "bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf"
SHORT = "bartowski/Llama-3.2-3B-Instruct-Q4_K_M"


class Machine:
    """A home of ours, and the three programs."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.ollama, self.studio, self.hub = folder / "ollama", folder / "studio", folder / "hub"
        self.hub.mkdir()

    def store(self, **more: Any) -> Store:
        programs = [Ollama([self.ollama]), LMStudio([self.studio]), HubCache(self.hub)]
        return Store(self.home, programs=programs, bundled=bundled_model(), catalog=Catalog.load(), **more)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def names(store: Store) -> list[str]:
    return [model.name for model in store.list()]


def test_the_models_of_all_three_are_listed_with_whose_they_are(machine: Machine) -> None:
    blob = put_ollama_model(machine.ollama, f"{LIBRARY}/llama3.2/3b", {"temperature": 0.5})
    link = put_hub_file(machine.hub, "Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf")
    file = write_gguf(machine.studio / "p" / "r" / "f.gguf")

    models = {model.name: model for model in machine.store().list()}

    assert {name: (model.source, model.path) for name, model in models.items() if name != "tiny"} == {
        "llama3.2:3b": ("ollama", blob),
        "Qwen/Qwen3-8B-Q4_K_M": ("hub", link),
        "p/r/f": ("lmstudio", file),
    }
    assert models["llama3.2:3b"].parameters == {"temperature": 0.5}


def test_a_model_that_was_made_in_ollama_is_used_as_it_was_made(machine: Machine) -> None:
    put_ollama_model(machine.ollama, f"{LIBRARY}/mario/latest", {"num_ctx": 512}, more={"system": b"You are Mario."})

    model = machine.store().resolve("mario")
    copied = machine.store().copy("mario", "luigi")

    assert (model.source, model.system, model.engine_options) == ("ollama", "You are Mario.", {"context_size": 512})
    assert (copied.system, copied.engine_options) == (model.system, model.engine_options)


@pytest.mark.parametrize("asked", [SHORT, f"{REPO}/{FILE[:-5]}", FILE[:-5], "llama3.2:3b", "llama3.2", "meta-llama/Llama-3.2-3B-Instruct"])
def test_a_file_answers_to_its_long_and_short_names_and_to_the_catalogues(machine: Machine, asked: str) -> None:
    link = put_hub_file(machine.hub, REPO, FILE)

    model = machine.store().resolve(asked)

    assert (model.name, model.path) == (SHORT, link)


def test_a_short_name_that_two_models_have_means_neither(machine: Machine) -> None:
    for publisher in ("one", "two"):
        write_gguf(machine.studio / publisher / "x" / "same.gguf", general__name=publisher)

    with pytest.raises(ModelNotFound):
        machine.store().resolve("same")
    assert names(machine.store()) == ["one/x/same", "tiny", "two/x/same"]


def test_our_own_model_keeps_its_name_and_the_others_goes_by_its_programs(machine: Machine) -> None:
    blob = put_ollama_model(machine.ollama, f"{LIBRARY}/tiny/latest")
    store = machine.store()

    assert store.resolve("tiny").source == "bundled"
    assert store.resolve("ollama/tiny").path == blob
    assert names(store) == ["ollama/tiny", "tiny"]


@pytest.mark.parametrize("taken", ["llama3.2:3b", "LLAMA3.2:3B"])
def test_a_name_that_ollama_uses_may_be_imported_copied_and_pulled(machine: Machine, taken: str) -> None:
    put_ollama_model(machine.ollama, f"{LIBRARY}/llama3.2/3b", general__name="theirs")
    mine = write_gguf(machine.home / "models" / "mine.gguf")
    store = machine.store()

    store.record_pull(Record(name=taken, path=str(mine), source="pulled", owns_file=True, created_at=time.time()))

    assert store.resolve(taken).path == mine
    assert sorted(names(store)) == sorted([taken, "ollama/llama3.2:3b", "tiny"])
    store.remove(taken)
    assert store.copy("tiny", taken).source == "alias"


def test_one_file_that_two_programs_share_is_one_model(machine: Machine) -> None:
    link = put_hub_file(machine.hub, REPO, FILE)
    (machine.studio / REPO).mkdir(parents=True)
    (machine.studio / REPO / FILE).symlink_to(link)

    assert [(model.name, model.source) for model in machine.store().list()] == [(SHORT, "lmstudio"), ("tiny", "bundled")]


def test_copies_of_one_file_in_two_programs_are_both_there(machine: Machine) -> None:
    put_hub_file(machine.hub, REPO, FILE)
    write_gguf(machine.studio / REPO / FILE)

    assert names(machine.store()) == [f"{REPO}/{FILE[:-5]}", SHORT, "tiny"]


def test_two_tags_of_ollama_on_one_blob_are_two_names(machine: Machine) -> None:
    for tag in ("3b", "latest"):
        put_ollama_model(machine.ollama, f"{LIBRARY}/llama3.2/{tag}")

    assert names(machine.store()) == ["llama3.2", "llama3.2:3b", "tiny"]


def test_a_folder_that_the_settings_name_too_is_ours(machine: Machine) -> None:
    write_gguf(machine.studio / "p" / "r" / "f.gguf")

    models = machine.store(model_dirs=[machine.studio]).list()

    assert [(model.name, model.source) for model in models] == [("p/r/f", "file"), ("tiny", "bundled")]


def test_a_copy_of_anothers_model_has_its_parameters_and_leaves_it_there(machine: Machine) -> None:
    blob = put_ollama_model(machine.ollama, f"{LIBRARY}/m/latest", {"temperature": 0.5, "stop": ["x"]})
    store = machine.store()

    copied = store.copy("m", "mine", parameters={"top_k": 3})

    assert (copied.path, copied.parameters) == (blob, {"temperature": 0.5, "stop": ["x"], "top_k": 3})
    assert names(store) == ["m", "mine", "tiny"]
    store.remove("mine")
    assert blob.exists()


@pytest.mark.parametrize(("name", "owner"), [("m", "Ollama"), ("p/r/f", "LM Studio"), ("o/M-Q4_0", "the cache of the Hugging Face Hub")])
def test_what_belongs_to_another_program_is_not_removed_and_the_answer_says_whose_it_is(machine: Machine, name: str, owner: str) -> None:
    blob = put_ollama_model(machine.ollama, f"{LIBRARY}/m/latest")
    link = put_hub_file(machine.hub, "o/M-GGUF", "M-Q4_0.gguf")
    file = write_gguf(machine.studio / "p" / "r" / "f.gguf")

    with pytest.raises(Conflict, match=f"'{name}' belongs to {owner}"):
        machine.store().remove(name)

    assert all(path.exists() for path in (blob, link, file))


def test_nothing_of_the_other_programs_is_written(machine: Machine) -> None:
    put_ollama_model(machine.ollama, f"{LIBRARY}/m/latest", {"temperature": 1})
    put_hub_file(machine.hub, "o/M-GGUF", "M-Q4_0.gguf")
    before = _state(machine.ollama) | _state(machine.hub)

    machine.store().list()
    machine.store().resolve("m")

    assert _state(machine.ollama) | _state(machine.hub) == before


def test_a_model_that_has_just_come_is_found_by_its_name_and_one_that_is_gone_is_not(machine: Machine) -> None:
    store = machine.store()
    store.list()
    put_ollama_model(machine.ollama, f"{LIBRARY}/new/latest")

    assert store.resolve("new").source == "ollama"
    (machine.ollama / "manifests" / LIBRARY / "new" / "latest").unlink()
    assert names(store) == ["tiny"]
    with pytest.raises(ModelNotFound):
        store.resolve("new")


def test_a_broken_file_of_another_program_is_left_out_and_fails_with_its_reason(machine: Machine) -> None:
    file = machine.studio / "p" / "r" / "broken.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"<html>")

    store = machine.store()

    assert names(store) == ["tiny"]
    with pytest.raises(ModelLoadFailed, match="it starts with b'<html>'"):
        store.resolve("p/r/broken")


def test_a_name_that_no_model_may_have_is_left_out_and_told_once(machine: Machine, caplog: Any) -> None:
    write_gguf(machine.studio / "my models" / "r" / "f.gguf")
    store = machine.store()

    with caplog.at_level(logging.WARNING):
        assert [names(store) for _ in range(3)] == [["tiny"]] * 3

    assert len([record for record in caplog.records if "my models/r/f" in record.getMessage()]) == 1


def test_the_catalogues_template_serves_only_where_the_file_brings_none(machine: Machine) -> None:
    put_ollama_model(machine.ollama, f"{LIBRARY}/llama3.2/1b", general__name="without")
    put_ollama_model(machine.ollama, f"{LIBRARY}/llama3.2/3b", tokenizer__chat_template="{{ messages }}")
    store = machine.store()

    assert [store.resolve(f"llama3.2:{size}").template for size in ("1b", "3b")] == ["llama3.1", None]


def test_two_hundred_models_of_four_owners_are_listed_by_a_new_process_in_a_third_of_a_second(machine: Machine) -> None:
    template = "x" * 5_000
    for number in range(50):
        tag, stem = f"{LIBRARY}/m{number}/7b", f"M{number}-Q4_0.gguf"
        put_ollama_model(machine.ollama, tag, {"temperature": 1}, general__name=str(number), tokenizer__chat_template=template)
        put_hub_file(machine.hub, f"org/M{number}-GGUF", stem)
        write_gguf(machine.studio / "pub" / f"M{number}-GGUF" / stem, tokenizer__chat_template=template)
        write_gguf(machine.home / "models" / f"own-{number}.gguf", tokenizer__chat_template=template)
    assert len(names(machine.store())) == 201

    best = min(_seconds_to_list(machine) for _ in range(3))

    assert best < 0.3


def _seconds_to_list(machine: Machine) -> float:
    started = time.process_time()
    machine.store().list()
    return time.process_time() - started


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("asked", ["hf.co/org/M-GGUF:Q4_K_M", "HF.co/org/m-gguf:q4_k_m", "hf.co/org/M-GGUF"])
def test_what_ollama_pulled_from_the_hub_is_found_by_the_name_under_which_it_is_listed(machine: Machine, asked: str) -> None:
    """Every name lost its `hf.co/` before it was looked for, so a model that was listed with it was 404."""
    blob = put_ollama_model(machine.ollama, "hf.co/org/M-GGUF/Q4_K_M")
    store = machine.store()

    assert "hf.co/org/M-GGUF:Q4_K_M" in names(store)
    assert store.resolve(asked).path == blob


def test_the_model_that_is_called_so_goes_before_the_one_without_a_registry_in_front(machine: Machine) -> None:
    theirs = put_ollama_model(machine.ollama, "hf.co/org/M-GGUF/Q4_K_M")
    store = machine.store()
    store.copy("tiny", "org/M-GGUF:Q4_K_M")

    assert store.resolve("hf.co/org/M-GGUF:Q4_K_M").path == theirs
    assert store.resolve("org/M-GGUF:Q4_K_M").path == bundled_model()


@pytest.mark.parametrize("asked", ["registry.ollama.ai/library/m:1b", "library/m:1b", "registry.ollama.ai/library/m"])
def test_a_model_of_ollamas_is_found_by_its_full_name(machine: Machine, asked: str) -> None:
    blob = put_ollama_model(machine.ollama, f"{LIBRARY}/m/1b")

    assert machine.store().resolve(asked).path == blob


def test_what_ollama_pulled_from_the_hub_is_ollamas_to_remove(machine: Machine) -> None:
    put_ollama_model(machine.ollama, "hf.co/org/M-GGUF/Q4_K_M")

    with pytest.raises(Conflict, match="belongs to Ollama"):
        machine.store().remove("hf.co/org/M-GGUF:Q4_K_M")


def test_a_model_of_ours_is_removed_by_its_name_on_the_hub(machine: Machine) -> None:
    """It was pulled as `hf.co/org/M`, used as `hf.co/org/M`, and could not be removed as that."""
    store = machine.store()
    store.copy("tiny", "org/M")

    store.remove("hf.co/org/M")

    assert names(store) == ["tiny"]
