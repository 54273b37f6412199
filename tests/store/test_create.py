"""What a new model may be made of, told before anything is installed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from store.gguf_files import write_gguf

from myllm.errors import Conflict, InvalidRequest, ModelNotFound, TemplateFailed, UnsupportedByModel
from myllm.store.catalog import Catalog, bundled_model
from myllm.store.create import MAX_TEXT_BYTES, Draft, NewModel, draft_model
from myllm.store.file_types import BITS_PER_WEIGHT, expected_bytes, parse_file_type
from myllm.store.store import InstalledModel, Store
from myllm.types import Message

JINJA = "{% for message in messages %}{{ message.content }}{% endfor %}"
NO_BLOB = f"sha256:{'0' * 64}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", bundled=bundled_model(), catalog=Catalog())


def refuse_template(source: str) -> None:
    raise TemplateFailed("it does not compile", param="template")


def draft(store: Store, *, check_template: Any = lambda source: None, **wanted: Any) -> Draft:
    return draft_model(store, NewModel(**{"name": "new", **wanted}), check_template)


def create(store: Store, **wanted: Any) -> InstalledModel:
    return store.install(draft(store, **wanted).record)


def put(store: Store, file: Path) -> str:
    """Upload a file; returns its digest."""
    content = file.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with store.blobs.begin(digest, len(content)) as writer:
        writer.write(content)
        writer.commit()
    return digest


def put_gguf(store: Store, folder: Path, **keys: Any) -> str:
    return put(store, write_gguf(folder / "made.gguf", **keys))


def names(store: Store) -> list[str]:
    return [model.name for model in store.list()]


def test_a_model_made_from_another_has_its_file_and_what_is_laid_over_it(store: Store) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello."))
    wanted = {"system": "You are Mario.", "messages": turns, "license": "MIT", "template": JINJA}

    model = create(store, source="tiny", parameters={"temperature": 0.1, "num_ctx": 512, "stop": ["END"], "num_keep": 9}, **wanted)

    again = Store(store.models_folder.parent, bundled=bundled_model(), catalog=Catalog()).resolve("new")
    assert again == model
    assert (model.path, model.parent_model, model.template_source) == (bundled_model(), "tiny", JINJA)
    assert (model.system, model.messages, model.license) == ("You are Mario.", turns, "MIT")
    assert (model.parameters, model.engine_options, model.num_keep) == ({"temperature": 0.1, "stop": ["END"]}, {"context_size": 512}, 9)


def test_what_is_not_given_is_as_in_the_source(store: Store) -> None:
    create(store, name="mario", source="tiny", system="You are Mario.", template=JINJA, parameters={"temperature": 0.1, "seed": 7})

    luigi = create(store, name="luigi", source="mario", system="You are Luigi.", parameters={"temperature": 0.9, "seed": -1})

    assert (luigi.system, luigi.template_source, luigi.parent_model) == ("You are Luigi.", JINJA, "mario")
    assert luigi.parameters == {"temperature": 0.9}
    assert store.resolve("mario").parameters == {"temperature": 0.1, "seed": 7}


def test_a_template_in_jinja_takes_the_place_of_a_packaged_one(store: Store) -> None:
    store.copy("tiny", "copied", template="chatml")

    model = create(store, source="copied", template=JINJA)

    assert (model.template, model.template_source) == (None, JINJA)


def test_a_template_that_was_given_says_what_the_model_can_do(store: Store) -> None:
    model = create(store, source="tiny", template="{% if tools %}{{ tools }}{% endif %}{{ messages }}")
    plain = create(store, name="plain", source="tiny", template=JINJA)

    assert {"chat", "tools"} <= {*model.capabilities}
    assert {"tools", "thinking"} & {*plain.capabilities} == set()
    assert store.resolve("tiny").capabilities == store.resolve("tiny").metadata.capabilities


def test_a_model_is_made_of_an_uploaded_file_where_it_lies(store: Store, tmp_path: Path) -> None:
    digest = put_gguf(store, tmp_path)

    drafted = draft(store, files={"dir/x.gguf": digest.replace(":", "-")}, system="Hi")
    model = store.install(drafted.record)

    assert model.path == store.blobs.path(digest)
    assert drafted.weights == (digest,)
    assert drafted.texts == (f"sha256:{hashlib.sha256(b'Hi').hexdigest()}",)
    assert names(store) == ["new", "tiny"]


def test_the_parts_of_a_split_model_are_put_in_order_by_what_their_headers_say(store: Store, tmp_path: Path) -> None:
    digests = [put_gguf(store, tmp_path, split__no=number, split__count=3, general__name=f"part {number}") for number in range(3)]

    model = create(store, files={"b.gguf": digests[2], "c.gguf": digests[0], "a.gguf": digests[1]})

    assert model.metadata.is_split and model.metadata.name == "part 0"
    assert names(store) == ["new", "tiny"]
    store.remove("new")
    assert os.listdir(store.blobs.folder) == []


@pytest.mark.parametrize("numbers", [(0, 2), (0, 0), (1, 2), (0,), (0, 1, 2)])
def test_parts_that_are_no_whole_model_are_refused(store: Store, tmp_path: Path, numbers: tuple[int, ...]) -> None:
    count = 2
    files = {
        f"{at}.gguf": put_gguf(store, tmp_path, split__no=number, split__count=count, general__name=f"{at}")
        for at, number in enumerate(numbers)
    }

    with pytest.raises(InvalidRequest, match="one model, whole") as refused:
        draft(store, files=files)

    assert refused.value.param == "files"


def test_two_whole_models_are_not_one(store: Store, tmp_path: Path) -> None:
    files = {name: put_gguf(store, tmp_path, general__name=name) for name in ("a.gguf", "b.gguf")}

    with pytest.raises(InvalidRequest, match="one model, whole"):
        draft(store, files=files)


@pytest.mark.parametrize(
    ("wanted", "field", "text"),
    [
        ({}, "from", "neither 'from' or 'files' was specified"),
        ({"source": "tiny", "files": {"x.gguf": NO_BLOB}}, "files", "either"),
        ({"files": {"x.gguf": NO_BLOB}}, "files", "is not here"),
        ({"files": {"x.gguf": "sha256:../../x"}}, "files", "invalid digest format"),
        ({"files": {"/etc/passwd": NO_BLOB}}, "files", "file path must be relative"),
        ({"files": {"../x.gguf": NO_BLOB}}, "files", "file path must be relative"),
        ({"files": {"C:\\x.gguf": NO_BLOB}}, "files", "file path must be relative"),
        ({"files": {"": NO_BLOB}}, "files", "file path must be relative"),
        ({"files": {"model.safetensors": NO_BLOB}}, "files", "convert_hf_to_gguf"),
        ({"files": {f"{n}.gguf": NO_BLOB for n in range(1001)}}, "files", "at most 1,000"),
        ({"source": "tiny", "adapters": {"a.gguf": NO_BLOB}}, "adapters", "LoRA"),
        ({"source": "tiny", "name": "../x"}, "name", "cannot be a model's name"),
        ({"source": "tiny", "parameters": {"temprature": 1}}, "parameters.temprature", "no parameter"),
        ({"source": "tiny", "system": "x" * (MAX_TEXT_BYTES + 1)}, "system", "at most"),
        ({"source": "tiny", "license": "x" * (MAX_TEXT_BYTES + 1)}, "license", "at most"),
        ({"source": "tiny", "messages": (Message("user", "x" * (5 << 20)),)}, "messages", "at most"),
        ({"source": "tiny", "quantize": "q9_Z"}, "quantize", "unsupported quantization type q9_Z - supported types are F32"),
        ({"source": "tiny", "quantize": "q8_0"}, "quantize", "quantization is only supported for F16 and F32 models"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_fields_name(store: Store, wanted: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        draft(store, **wanted)

    assert (refused.value.param, refused.value.status) == (field, 400)
    assert text in refused.value.message
    assert names(store) == ["tiny"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"general__type": "adapter"}, "LoRA adapter"),
        ({"general__type": "projector"}, "projector for images"),
        ({"architecture": "clip"}, "projector for images"),
    ],
)
def test_a_file_that_only_goes_with_a_model_is_refused_by_name(store: Store, tmp_path: Path, keys: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedByModel, match=f"'part.gguf' is a {text}"):
        draft(store, files={"part.gguf": put_gguf(store, tmp_path, **keys)})


def test_a_file_that_is_no_gguf_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<html>404</html>")

    with pytest.raises(InvalidRequest, match=r"supplied file was not in GGUF format: 'x\.gguf'") as refused:
        draft(store, files={"x.gguf": put(store, tmp_path / "page")})

    assert refused.value.param == "files"


def test_a_model_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(ModelNotFound):
        draft(store, source="nothing")


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Prompt }}",
        "{{.System}}",
        "{{- range .Messages }}{{ .Content }}{{ end }}",
        "{{ if .System }}x{{ end }}",
        "{{- $last := eq (len (slice .Messages)) 1 }}",
        '{{ template "x" . }}',
    ],
)
def test_a_go_template_is_refused_with_what_to_send_instead(store: Store, template: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Go template; send Jinja") as refused:
        draft(store, source="tiny", template=template)

    assert refused.value.param == "template"


@pytest.mark.parametrize(
    "template", [JINJA, "{{ messages[0].content if messages }}", "{{ range(3) }}{{- ifnot }}{%- if messages %}{% endif %}"]
)
def test_jinja_is_not_taken_for_go(store: Store, template: str) -> None:
    assert draft(store, source="tiny", template=template).record.template_source == template


def test_a_template_that_does_not_compile_is_refused(store: Store) -> None:
    with pytest.raises(TemplateFailed, match="does not compile"):
        draft(store, source="tiny", template=JINJA, check_template=refuse_template)


def test_a_model_made_anew_takes_the_place_of_the_old_one_and_its_file_goes(store: Store, tmp_path: Path) -> None:
    first, second = (put_gguf(store, tmp_path, general__name=name) for name in ("first", "second"))
    create(store, name="Mine", files={"x.gguf": first})

    model = create(store, name="mine:latest", files={"x.gguf": second})

    assert (model.name, model.metadata.name) == ("Mine", "second")
    assert names(store) == ["Mine", "tiny"]
    assert not store.blobs.has(first) and store.blobs.has(second)


def test_a_file_that_another_model_uses_outlives_the_replaced_one(store: Store, tmp_path: Path) -> None:
    digest = put_gguf(store, tmp_path)
    create(store, name="base", files={"x.gguf": digest})
    create(store, name="child", source="base", system="Hi")

    create(store, name="base", source="tiny")
    kept = store.resolve("child").path
    store.remove("child")

    assert kept == store.blobs.path(digest)
    assert not store.blobs.has(digest)


def test_a_model_is_changed_by_making_it_from_itself(store: Store, tmp_path: Path) -> None:
    digest = put_gguf(store, tmp_path)
    create(store, name="base", files={"x.gguf": digest})

    model = create(store, name="base", source="base", system="Hi")
    store.remove("base")

    assert model.system == "Hi"
    assert not store.blobs.has(digest)


def test_a_plain_file_gets_what_is_laid_over_it_and_goes_with_its_model(store: Store) -> None:
    file = write_gguf(store.models_folder / "plain.gguf")

    model = create(store, name="plain", source="plain", system="Hi")
    listed = names(store)
    store.remove("plain")

    assert (model.path, model.system, listed) == (file, "Hi", ["plain", "tiny"])
    assert not file.exists() and names(store) == ["tiny"]


@pytest.mark.parametrize("name", ["tiny", "TINY:latest", "plain"])
def test_the_bundled_model_and_somebodys_file_are_never_replaced(store: Store, name: str) -> None:
    file = write_gguf(store.models_folder / "plain.gguf")
    store.copy("tiny", "other")

    with pytest.raises(Conflict):
        draft(store, name=name, source="other")

    assert file.exists()
    assert store.resolve("tiny").source == "bundled"


def test_a_copy_over_a_name_that_is_taken_replaces_it_and_over_its_own_does_nothing(store: Store, tmp_path: Path) -> None:
    digest = put_gguf(store, tmp_path)
    create(store, name="old", files={"x.gguf": digest})
    create(store, name="mario", source="tiny", system="You are Mario.", template=JINJA)

    copied = store.copy_over("mario", "old")
    same = store.copy_over("mario", "Mario:latest")

    assert (copied.name, copied.system, copied.template_source) == ("old", "You are Mario.", JINJA)
    assert same == store.resolve("mario")
    assert not store.blobs.has(digest)
    with pytest.raises(Conflict, match="ships with MyLLM"):
        store.copy_over("mario", "tiny")
    with pytest.raises(ModelNotFound):
        store.copy_over("nothing", "x")


def test_a_record_of_an_older_version_still_loads(store: Store) -> None:
    known = b'"name": "old", "path": null, "source": "alias", "owns_file": false, "created_at": 1.0'
    old = b"{" + known + b', "parameters": {"seed": 1}, "template": null, "origin": null}'
    store.registry.folder.mkdir(parents=True)
    (store.registry.folder / "old-0123.json").write_bytes(old)

    model = store.resolve("old")

    assert (model.parameters, model.system, model.messages, model.engine_options) == ({"seed": 1}, None, (), {})


@pytest.mark.parametrize(
    ("written", "name"), [("q4_K_M", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("q8_0", "Q8_0"), ("F16", "F16"), ("iq4_nl", "IQ4_NL")]
)
def test_a_type_is_known_in_whatever_case(written: str, name: str) -> None:
    assert parse_file_type(written) == name


def test_a_source_of_full_precision_may_be_quantised_and_one_that_has_the_type_stays(store: Store, tmp_path: Path) -> None:
    digest = put_gguf(store, tmp_path, general__file_type=1)

    assert draft(store, files={"x.gguf": digest}, quantize="q4_K_M").file_type == "Q4_K_M"
    assert draft(store, files={"x.gguf": digest}, quantize="f16").file_type is None


def test_the_expected_size_grows_with_the_bits_of_the_type(store: Store) -> None:
    metadata = store.resolve("tiny").metadata
    sizes = [expected_bytes(metadata, name) for name in sorted(BITS_PER_WEIGHT, key=lambda name: BITS_PER_WEIGHT[name])]

    assert sizes == sorted(sizes)
    assert expected_bytes(metadata, "F16") > metadata.parameter_count * 2


def test_a_model_that_somebody_else_removes_at_once_was_made_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maker was told that the model which it was made from is not found."""
    drafted, replace = draft(store, source="tiny", system="Be brief."), store.registry.replace

    def replace_and_lose(record: Any) -> Any:
        written = replace(record)
        store.remove(record.name)
        return written

    monkeypatch.setattr(store.registry, "replace", replace_and_lose)

    made = store.install(drafted.record)

    assert (made.name, made.system, made.path) == ("new", "Be brief.", bundled_model())


def test_a_source_that_is_removed_while_it_is_copied_is_not_found(store: Store) -> None:
    """This was a KeyError, and a 500."""
    source = store.copy("tiny", "source")
    store.remove("source")

    with pytest.raises(ModelNotFound, match="'source'"):
        store.derive(source, "copy")
