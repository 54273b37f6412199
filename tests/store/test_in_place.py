"""The folders of other programs, made here as those programs make them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from store.gguf_files import write_gguf

from myllm.store.in_place import MAX_MANIFEST_BYTES, FoundModel, HubCache, LMStudio, Ollama, programs_in_place
from myllm.types import Message, SamplingParams

WEIGHTS, PARAMS = "application/vnd.ollama.image.model", "application/vnd.ollama.image.params"
LIBRARY = "registry.ollama.ai/library"


def put_blob(folder: Path, content: bytes) -> dict[str, Any]:
    """A blob of Ollama's, and the part of a layer that names it."""
    digest = hashlib.sha256(content).hexdigest()
    file = folder / "blobs" / f"sha256-{digest}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def put_manifest(folder: Path, name: str, content: Any) -> Path:
    file = folder / "manifests" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def put_ollama_model(folder: Path, name: str, parameters: Any = None, more: dict[str, bytes] | None = None, **keys: Any) -> Path:
    """A model as `ollama pull` leaves it, with `more` layers by the end of their media type; returns the blob with its weights."""
    weights = put_blob(folder, write_gguf(folder / "weights.gguf", **keys).read_bytes())
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", **put_blob(folder, b"{{ .Prompt }}")},
        {"mediaType": WEIGHTS, **weights},
        {"mediaType": "application/vnd.ollama.image.projector", **put_blob(folder, b"a projector")},
    ]
    if parameters is not None:
        layers.append({"mediaType": PARAMS, **put_blob(folder, json.dumps(parameters).encode())})
    layers += [{"mediaType": f"application/vnd.ollama.image.{kind}", **put_blob(folder, text)} for kind, text in (more or {}).items()]
    put_manifest(folder, name, {"schemaVersion": 2, "config": {"digest": "sha256:0", "size": 1}, "layers": layers})
    (folder / "weights.gguf").unlink()
    return folder / "blobs" / str(weights["digest"]).replace(":", "-")


def put_hub_file(cache: Path, repo: str, file: str, revision: str = "a" * 40, *, is_main: bool = True) -> Path:
    """A file as huggingface-hub leaves it: a link in the snapshot, the content among the blobs."""
    repository = cache / f"models--{repo.replace('/', '--')}"
    content = write_gguf(cache / "made.gguf", general__name=file).read_bytes()
    blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link = repository / "snapshots" / revision / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    if is_main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
    (cache / "made.gguf").unlink()
    return link


def found(program: HubCache | LMStudio | Ollama) -> dict[str, FoundModel]:
    return {model.names[0]: model for model in program.models()}


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (f"{LIBRARY}/llama3.2/3b", "llama3.2:3b"),
        (f"{LIBRARY}/llama3.2/latest", "llama3.2"),
        ("registry.ollama.ai/someone/model/v1", "someone/model:v1"),
        ("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF/Q4_K_M", "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"),
    ],
)
def test_a_model_of_ollamas_is_called_as_ollama_shows_it(tmp_path: Path, place: str, shown: str) -> None:
    blob = put_ollama_model(tmp_path, place)

    assert {name: model.path for name, model in found(Ollama([tmp_path])).items()} == {shown: blob}


def test_ollamas_parameters_get_our_names_and_those_without_a_counterpart_stay_behind(tmp_path: Path) -> None:
    written = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0,
        "repeat_penalty": 1,
        "repeat_last_n": -1,
        "num_predict": 128,
        "seed": 7,
        "stop": ["<|im_end|>", "User:"],
        "num_ctx": 4096,
        "num_gpu": 99,
    }
    put_ollama_model(tmp_path, f"{LIBRARY}/m/latest", written)

    parameters = found(Ollama([tmp_path]))["m"].parameters

    assert parameters == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "penalty_last_n": -1,
        "max_tokens": 128,
        "seed": 7,
        "stop": ("<|im_end|>", "User:"),
    }
    assert SamplingParams().updated(parameters).max_tokens == 128


def test_what_ollamas_parameters_say_of_loading_comes_along(tmp_path: Path) -> None:
    put_ollama_model(tmp_path, f"{LIBRARY}/m/latest", {"num_ctx": 4096, "num_gpu": 0, "use_mmap": "maybe"})

    assert found(Ollama([tmp_path]))["m"].engine_options == {"context_size": 4096, "gpu_layers": 0}


def test_a_model_that_was_made_in_ollama_keeps_its_system_prompt_and_its_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It's-a me!"}]
    put_ollama_model(tmp_path, f"{LIBRARY}/mario/latest", more={"system": b"You are Mario.", "messages": json.dumps(turns).encode()})

    model = found(Ollama([tmp_path]))["mario"]

    assert (model.system, model.template, model.template_source) == ("You are Mario.", None, None)
    assert model.messages == (Message("user", "Hi"), Message("assistant", "It's-a me!"))


@pytest.mark.parametrize(
    "layer", [{"messages": b"{"}, {"messages": b'[{"role": "root", "content": ""}]'}, {"system": b"x" * (MAX_MANIFEST_BYTES + 1)}]
)
def test_a_layer_that_cannot_be_used_is_left_out_and_the_model_works(tmp_path: Path, caplog: Any, layer: dict[str, bytes]) -> None:
    put_ollama_model(tmp_path, f"{LIBRARY}/m/latest", {"seed": 1}, more=layer)

    model = found(Ollama([tmp_path]))["m"]

    assert (model.parameters, model.system, model.messages) == ({"seed": 1}, None, ())
    assert [record.getMessage() for record in caplog.records if "'m'" in record.getMessage()]


@pytest.mark.parametrize(
    "written",
    [
        {"temperature": "hot", "top_k": 1.5, "top_p": 2, "seed": True, "num_predict": -1, "stop": 7},
        {"temperature": -1, "stop": ["", 3, None], "repeat_penalty": 0},
        {"stop": "x" * 1000},
    ],
)
def test_parameters_of_a_wrong_type_or_out_of_range_are_left_out(tmp_path: Path, written: dict[str, Any]) -> None:
    put_ollama_model(tmp_path, f"{LIBRARY}/m/latest", written)

    assert found(Ollama([tmp_path]))["m"].parameters == {}


def _layer(**replaced: Any) -> dict[str, Any]:
    return {"layers": [{"mediaType": WEIGHTS, "digest": f"sha256:{'0' * 64}", "size": 1, **replaced}]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"layers": "none"}',
        b'{"layers": [null]}',
        b'{"layers": [' + b" " * MAX_MANIFEST_BYTES + b"]}",
        _layer(),
        _layer(digest="sha256:../../../../etc/passwd"),
        _layer(digest="../../../../etc/passwd"),
        _layer(digest="sha256:" + "Z" * 64),
        _layer(digest="sha256:" + "0" * 63 + "/"),
        _layer(digest=7),
        _layer(size="big"),
    ],
)
def test_a_broken_manifest_is_left_out_told_once_and_takes_no_other_with_it(tmp_path: Path, caplog: Any, content: Any) -> None:
    put_ollama_model(tmp_path, f"{LIBRARY}/good/latest")
    put_manifest(tmp_path, f"{LIBRARY}/bad/latest", content)
    ollama = Ollama([tmp_path])

    with caplog.at_level(logging.WARNING):
        listed = [list(found(ollama)) for _ in range(3)]

    assert listed == [["good"]] * 3
    assert len([record for record in caplog.records if "'bad'" in record.getMessage()]) == 1


def test_a_digest_that_leads_out_of_the_blobs_leads_nowhere(tmp_path: Path) -> None:
    outside = write_gguf(tmp_path / "outside.gguf")
    (tmp_path / "store" / "blobs" / "sha256-").mkdir(parents=True)
    content = _layer(digest="sha256:/../../../outside.gguf", size=outside.stat().st_size)
    put_manifest(tmp_path / "store", f"{LIBRARY}/m/latest", content)

    assert (tmp_path / "store" / "blobs" / "sha256-/../../../outside.gguf").exists()
    assert found(Ollama([tmp_path / "store"])) == {}


def test_weights_that_are_cut_off_missing_or_no_file_are_left_out(tmp_path: Path) -> None:
    cut = put_ollama_model(tmp_path, f"{LIBRARY}/cut/latest", general__name="cut")
    cut.write_bytes(cut.read_bytes()[:-1])
    put_ollama_model(tmp_path, f"{LIBRARY}/missing/latest", general__name="missing").unlink()
    pipe = put_ollama_model(tmp_path, f"{LIBRARY}/pipe/latest", general__name="pipe")
    pipe.unlink()
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "manifests" / LIBRARY / "pipe" / "other")

    assert found(Ollama([tmp_path])) == {}


def test_a_model_whose_parameters_are_broken_works_without_them(tmp_path: Path) -> None:
    blob = put_ollama_model(tmp_path, f"{LIBRARY}/m/latest", {"temperature": 0.5})
    for file in (tmp_path / "blobs").iterdir():
        if file != blob:
            file.write_bytes(b"{")

    assert found(Ollama([tmp_path]))["m"].parameters == {}


def test_a_model_without_weights_here_is_none_of_ours(tmp_path: Path, caplog: Any) -> None:
    put_manifest(tmp_path, f"{LIBRARY}/gpt-oss/120b-cloud", {"layers": []})
    put_manifest(tmp_path, f"{LIBRARY}/.DS_Store/x", b"")

    assert found(Ollama([tmp_path])) == {}
    assert caplog.records == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=200), st.recursive(st.none() | st.text(max_size=9), lambda inner: st.lists(inner)).map(json.dumps))
)
def test_whatever_a_manifest_holds_the_others_are_found(tmp_path: Path, content: bytes | str) -> None:
    put_ollama_model(tmp_path, f"{LIBRARY}/good/latest")
    put_manifest(tmp_path, f"{LIBRARY}/odd/latest", content if isinstance(content, bytes) else content.encode())

    assert "good" in found(Ollama([tmp_path]))


@pytest.mark.parametrize(
    ("repo", "file", "names"),
    [
        ("bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", "bartowski/Llama-3.2-1B-Instruct-Q4_K_M"),
        ("mistralai/Devstral-Small-2507_gguf", "Devstral-Small-2507-Q4_K_M.gguf", "mistralai/Devstral-Small-2507-Q4_K_M"),
        ("someone/pile", "ggml-model-q4_0.gguf", "someone/pile/ggml-model-q4_0"),
        ("org/Big-GGUF", "Q4_K_M/Big-Q4_K_M-00001-of-00002.gguf", "org/Big-Q4_K_M"),
        ("gpt2", "gpt2.gguf", "gpt2"),
    ],
)
def test_a_file_of_the_hub_cache_is_called_by_owner_and_file(tmp_path: Path, repo: str, file: str, names: str) -> None:
    link = put_hub_file(tmp_path, repo, file)

    models = list(HubCache(tmp_path).models())

    assert [(model.names[0], model.path) for model in models] == [(names, link)]


def test_of_several_revisions_the_one_that_main_points_to_goes_first_and_the_others_add_what_it_lacks(tmp_path: Path) -> None:
    old = put_hub_file(tmp_path, "o/M-GGUF", "M-Q8_0.gguf", "1" * 40, is_main=False)
    put_hub_file(tmp_path, "o/M-GGUF", "M-Q4_0.gguf", "2" * 40, is_main=False)
    main = put_hub_file(tmp_path, "o/M-GGUF", "M-Q4_0.gguf", "0" * 40)
    os.utime(main.parent, (1, 1))  # an older revision that somebody went back to

    assert {name: model.path for name, model in found(HubCache(tmp_path)).items()} == {"o/M-Q4_0": main, "o/M-Q8_0": old}


def test_what_is_no_model_in_the_hub_cache_is_passed_by(tmp_path: Path) -> None:
    put_hub_file(tmp_path, "o/M-GGUF", "mmproj-M-f16.gguf")
    put_hub_file(tmp_path, "o/M-GGUF", "M-Q4_0-00002-of-00002.gguf")
    (tmp_path / "datasets--o--d" / "snapshots" / "x").mkdir(parents=True)
    (tmp_path / "models--o--empty").mkdir()
    (tmp_path / "version.txt").write_text("1")

    assert found(HubCache(tmp_path)) == {}


def test_lm_studios_folders_are_both_looked_through(tmp_path: Path) -> None:
    new = write_gguf(tmp_path / "new" / "lmstudio-community" / "Qwen3-4B-GGUF" / "Qwen3-4B-Q4_K_M.gguf")
    old = write_gguf(tmp_path / "old" / "TheBloke" / "x" / "y.gguf")
    loose = write_gguf(tmp_path / "old" / "loose.gguf")
    write_gguf(tmp_path / "new" / "lmstudio-community" / "Qwen3-4B-GGUF" / "mmproj-model-f16.gguf")

    models = found(LMStudio([tmp_path / "new", tmp_path / "old", tmp_path / "none"]))

    paths = {name: model.path for name, model in models.items()}
    assert paths == {"lmstudio-community/Qwen3-4B-Q4_K_M": new, "TheBloke/x/y": old, "loose": loose}


@pytest.mark.parametrize(
    ("env", "hub", "ollama"),
    [
        ({}, ".cache/huggingface/hub", ".ollama/models"),
        ({"HF_HOME": "HOME/hf", "OLLAMA_MODELS": "HOME/o"}, "hf/hub", "o"),
        ({"HF_HUB_CACHE": "HOME/cache", "HF_HOME": "HOME/hf"}, "cache", ".ollama/models"),
        ({"XDG_CACHE_HOME": "HOME/xdg"}, "xdg/huggingface/hub", ".ollama/models"),
    ],
)
def test_each_program_is_looked_for_where_its_own_settings_say(tmp_path: Path, env: dict[str, str], hub: str, ollama: str) -> None:
    link = put_hub_file(_made(tmp_path / hub), "o/M-GGUF", "M-Q4_0.gguf")
    blob = put_ollama_model(_made(tmp_path / ollama), f"{LIBRARY}/m/latest")
    studio = write_gguf(tmp_path / ".lmstudio" / "models" / "p" / "r" / "f.gguf")
    here = {"HOME": str(tmp_path), **{name: value.replace("HOME", str(tmp_path)) for name, value in env.items()}}

    programs = programs_in_place(("hub", "lmstudio", "ollama"), here)

    assert [program.source for program in programs] == ["hub", "lmstudio", "ollama"]
    paths = [model.path for program in programs for model in program.models()]
    assert [path for path in paths if path.is_relative_to(tmp_path)] == [link, studio, blob]  # the machine may have an Ollama of its own


def test_lm_studios_pointer_to_another_home_is_followed(tmp_path: Path) -> None:
    moved = write_gguf(tmp_path / "big disk" / "models" / "p" / "r" / "f.gguf")
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'big disk'}\n")

    assert [model.path for model in LMStudio.here(tmp_path).models()] == [moved]


@pytest.mark.parametrize("pointer", ["", "\0", "relative/folder", "x" * 10_000])
def test_a_pointer_that_points_nowhere_is_ignored(tmp_path: Path, pointer: str) -> None:
    (tmp_path / ".lmstudio-home-pointer").write_text(pointer)
    usual = write_gguf(tmp_path / ".lmstudio" / "models" / "p" / "r" / "f.gguf")

    assert [model.path for model in LMStudio.here(tmp_path).models()] == [usual]


def test_where_nothing_is_installed_nothing_is_found_and_nothing_made(tmp_path: Path, caplog: Any) -> None:
    programs = programs_in_place(("ollama", "lmstudio", "hub"), {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "o")})

    assert [model for program in programs for model in program.models()] == []
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
