from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store.gguf_files import write_gguf

from myllm.errors import Conflict, InvalidRequest, ModelLoadFailed, ModelNotFound, MyLLMError
from myllm.store.catalog import Catalog, CatalogEntry, bundled_model
from myllm.store.store import Store

CATALOG = Catalog(
    (
        CatalogEntry(
            name="qwen3:0.6b",
            repo="Qwen/Qwen3-0.6B-GGUF",
            file="Qwen3-0.6B-Q8_0.gguf",
            family="qwen3",
            context=1,
            capabilities=("chat",),
            license="apache-2.0",
            template="chatml",
            aliases=("qwen3-small",),
        ),
    )
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home, bundled=bundled_model(), catalog=CATALOG)


def names(store: Store) -> list[str]:
    return [model.name for model in store.list()]


def test_a_fresh_home_has_the_bundled_model(store: Store) -> None:
    model = store.resolve("tiny")

    assert names(store) == ["tiny"]
    assert (model.source, model.path) == ("bundled", bundled_model())
    assert model.digest.startswith("sha256-")


def test_files_below_the_home_and_the_model_folders_are_installed_under_their_stems(home: Path, tmp_path: Path) -> None:
    write_gguf(home / "models" / "Llama-3-Q4_K_M.gguf")
    write_gguf(home / "models" / "org" / "name.gguf")
    write_gguf(tmp_path / "mine" / "other.gguf")
    write_gguf(tmp_path / "mine" / ".hidden.gguf")

    store = Store(home, model_dirs=[tmp_path / "mine", tmp_path / "missing"], catalog=CATALOG)

    assert names(store) == ["Llama-3-Q4_K_M", "org/name", "other"]
    assert {model.source for model in store.list()} == {"file"}


def test_a_model_that_appears_or_goes_is_seen_at_the_next_look(store: Store, home: Path) -> None:
    file = write_gguf(home / "models" / "new.gguf")
    after_adding = names(store)
    file.unlink()

    assert after_adding == ["new", "tiny"]
    assert names(store) == ["tiny"]


def test_a_split_model_is_one_model(store: Store, home: Path) -> None:
    for number in (1, 2):
        write_gguf(home / "models" / f"big-{number:05}-of-00002.gguf", split__no=number - 1, split__count=2)

    assert names(store) == ["big", "tiny"]
    assert store.resolve("big").metadata.is_split


def test_a_broken_file_is_left_out_of_the_list_and_fails_with_its_reason(store: Store, home: Path) -> None:
    broken = home / "models" / "broken.gguf"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"<html>404</html>")
    os.mkfifo(broken.with_name("pipe.gguf"))

    assert names(store) == ["tiny"]
    with pytest.raises(ModelLoadFailed, match=r"'broken'.*it starts with b'<html>"):
        store.resolve("broken")
    with pytest.raises(ModelLoadFailed, match="not a file"):
        store.resolve("pipe")


def test_links_that_lead_in_circles_and_names_that_cannot_be_sent_are_survived(store: Store, home: Path) -> None:
    folder = home / "models"
    write_gguf(folder / "a" / "m.gguf")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / os.fsdecode(b"bad-\xff.gguf")).write_bytes(b"")

    assert "a/m" in names(store)
    assert all(name.isprintable() for name in names(store))


def test_an_unknown_name_is_answered_with_the_installed_ones(store: Store, home: Path) -> None:
    write_gguf(home / "models" / "mine.gguf")

    with pytest.raises(ModelNotFound, match="model 'nothing' not found; installed: mine, tiny"):
        store.resolve("nothing")


def test_an_unknown_name_of_a_megabyte_gets_a_short_answer(store: Store) -> None:
    with pytest.raises(ModelNotFound) as caught:
        store.resolve("x" * 1_000_000)

    assert len(caught.value.message) < 1000


def test_a_name_of_the_catalogue_is_answered_with_how_to_fetch_it(store: Store) -> None:
    with pytest.raises(ModelNotFound, match="`myllm pull qwen3-small`"):
        store.resolve("qwen3-small")


def test_an_ambiguous_family_is_answered_with_its_candidates(store: Store) -> None:
    store.copy("tiny", "fam:a")
    store.copy("tiny", "fam:b")

    with pytest.raises(ModelNotFound, match="ambiguous; it may be fam:a, fam:b"):
        store.resolve("fam")


def test_a_model_is_found_by_family_latest_and_case(store: Store) -> None:
    store.copy("tiny", "gpt-oss:20b")

    assert {store.resolve(asked).name for asked in ("gpt-oss", "GPT-OSS:20b", "gpt-oss:20b:latest")} == {"gpt-oss:20b"}
    assert store.resolve("Tiny:latest").name == "tiny"


def test_a_file_of_the_catalogue_answers_to_the_catalogues_names_and_gets_its_template(store: Store, home: Path) -> None:
    write_gguf(home / "models" / "Qwen3-0.6B-Q8_0.gguf")

    for asked in ("qwen3:0.6b", "qwen3-small", "qwen3", "Qwen3-0.6B-Q8_0"):
        assert store.resolve(asked).name == "Qwen3-0.6B-Q8_0"
    assert store.resolve("qwen3").template == "chatml"


def test_an_import_stays_in_place_and_is_seen_by_another_process(store: Store, home: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "elsewhere" / "My model..(2).gguf")

    model = store.import_file(file)

    assert (model.name, model.path, model.source) == ("My-model--2-", file, "imported")
    assert names(Store(home, catalog=CATALOG)) == ["My-model--2-"]
    assert list((home / "records").glob("*.tmp")) == []


def test_an_import_may_be_given_a_name(store: Store, tmp_path: Path) -> None:
    store.import_file(write_gguf(tmp_path / "a.gguf"), "org/model:1b")

    assert names(store) == ["org/model:1b", "tiny"]


@pytest.mark.parametrize("name", ["", "../x", "/x", "a b", "x" * 201])
def test_an_import_under_a_bad_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        store.import_file(write_gguf(tmp_path / "a.gguf"), name)


def test_an_import_of_what_is_no_model_is_refused_and_leaves_nothing(store: Store, home: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("no model at all")

    for path in (text, tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(ModelLoadFailed):
            store.import_file(path)

    assert not (home / "records").exists()


def test_a_taken_name_is_a_conflict_in_whatever_case(store: Store, home: Path, tmp_path: Path) -> None:
    write_gguf(home / "models" / "file.gguf")
    other = write_gguf(tmp_path / "other.gguf")
    store.import_file(other, "record")

    for name in ("tiny", "TINY", "tiny:latest", "file", "Record"):
        with pytest.raises(Conflict, match="taken"):
            store.import_file(other, name)
        with pytest.raises(Conflict, match="taken"):
            store.copy("record", name)


def test_of_two_processes_that_take_one_name_at_once_exactly_one_gets_it(home: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    script = (
        "import sys; from pathlib import Path; from myllm.store.store import Store; from myllm.store.catalog import Catalog\n"
        "from myllm.errors import Conflict\n"
        "store, wins = Store(Path(sys.argv[1]), catalog=Catalog()), 0\n"
        "for number in range(50):\n"
        "    try: store.import_file(Path(sys.argv[2]), f'm{number}'); wins += 1\n"
        "    except Conflict: pass\n"
        "print(wins)"
    )

    runs = [subprocess.Popen([sys.executable, "-c", script, str(home), str(file)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    wins = [int(run.communicate()[0]) for run in runs]

    assert sum(wins) == 50
    assert len(names(Store(home, catalog=CATALOG))) == 50


def test_a_copy_is_another_name_for_the_same_file_with_its_own_parameters(store: Store, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    store.import_file(file, "a")
    store.copy("a", "b", parameters={"temperature": 0.5, "stop": ["x"]}, template="chatml")

    copied = store.copy("b", "c", parameters={"temperature": 1.0})

    assert (copied.path, copied.source, copied.template) == (file, "alias", "chatml")
    assert copied.parameters == {"temperature": 1.0, "stop": ["x"]}
    assert store.resolve("a").parameters == {}


def test_a_copy_of_the_bundled_model_moves_with_the_installation(home: Path, tmp_path: Path) -> None:
    Store(home, bundled=bundled_model(), catalog=CATALOG).copy("tiny", "mine")
    moved = write_gguf(tmp_path / "new-installation" / "tiny.gguf")

    assert Store(home, bundled=moved, catalog=CATALOG).resolve("mine").path == moved


def test_a_file_in_the_home_is_deleted_with_its_model(store: Store, home: Path) -> None:
    for number in (1, 2):
        write_gguf(home / "models" / f"big-{number:05}-of-00002.gguf", split__no=number - 1, split__count=2)

    store.remove("big")

    assert list((home / "models").iterdir()) == []
    assert names(store) == ["tiny"]


def test_an_import_in_place_is_forgotten_and_its_file_kept(store: Store, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "mine.gguf")
    store.import_file(file)

    store.remove("MINE")

    assert file.exists()
    assert names(store) == ["tiny"]


def test_a_file_that_another_record_uses_outlives_the_first(store: Store, home: Path) -> None:
    file = write_gguf(home / "models" / "weights.gguf")
    store.import_file(file, "first")
    store.copy("first", "second")
    listed = names(store)

    store.remove("first")
    kept = file.exists(), names(store)
    store.remove("second")

    assert listed == ["first", "second", "tiny"]
    assert kept == (True, ["second", "tiny"])
    assert not file.exists()


def test_removing_an_alias_of_a_plain_file_keeps_the_file_and_the_file_waits_for_its_aliases(store: Store, home: Path) -> None:
    file = write_gguf(home / "models" / "file.gguf")
    store.copy("file", "alias")

    with pytest.raises(Conflict, match="alias"):
        store.remove("file")
    store.remove("alias")

    assert file.exists()
    assert names(store) == ["file", "tiny"]


def test_the_bundled_model_and_files_in_the_users_folders_cannot_be_removed(home: Path, tmp_path: Path) -> None:
    mine = write_gguf(tmp_path / "mine" / "mine.gguf")
    store = Store(home, model_dirs=[mine.parent], bundled=bundled_model(), catalog=CATALOG)

    for name in ("tiny", "mine"):
        with pytest.raises(Conflict):
            store.remove(name)

    assert bundled_model().exists()
    assert mine.exists()


def test_a_file_behind_a_link_out_of_the_home_is_not_ours_to_delete(store: Store, home: Path, tmp_path: Path) -> None:
    outside = write_gguf(tmp_path / "outside" / "m.gguf")
    (home / "models").mkdir(parents=True)
    (home / "models" / "linked").symlink_to(outside.parent)

    with pytest.raises(Conflict):
        store.remove("linked/m")

    assert outside.exists()


@pytest.mark.parametrize("name", ["gpt-oss", "qwen3", "../../etc/passwd", "", "nothing"])
def test_only_a_name_spelled_in_full_is_removed(store: Store, name: str) -> None:
    store.copy("tiny", "gpt-oss:20b")

    with pytest.raises(ModelNotFound):
        store.remove(name)

    assert names(store) == ["gpt-oss:20b", "tiny"]


def test_a_record_whose_file_is_gone_can_be_asked_for_its_reason_and_removed(store: Store, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    store.import_file(file, "a")
    file.unlink()

    assert names(store) == ["tiny"]
    with pytest.raises(ModelLoadFailed, match="No such file"):
        store.resolve("a")
    store.remove("a")
    with pytest.raises(ModelNotFound):
        store.resolve("a")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 1}', b"\xff"])
def test_a_damaged_record_is_left_out(store: Store, home: Path, content: bytes) -> None:
    store.copy("tiny", "good")
    (home / "records" / "damaged.json").write_bytes(content)

    assert names(store) == ["good", "tiny"]


def test_a_file_whose_name_is_taken_is_left_out_with_one_warning(store: Store, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_gguf(home / "models" / "tiny.gguf")

    for _ in range(3):
        assert store.resolve("tiny").path == bundled_model()

    assert len([record for record in caplog.records if "taken" in record.getMessage()]) == 1


def test_a_home_that_cannot_be_written_lists_and_refuses_to_import(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file where the folder should be")
    store = Store(home, bundled=bundled_model(), catalog=CATALOG)

    assert names(store) == ["tiny"]
    with pytest.raises(MyLLMError, match="cannot be recorded"):
        store.import_file(write_gguf(tmp_path / "a.gguf"))


def test_two_hundred_models_are_listed_by_a_new_process_in_a_third_of_a_second(home: Path) -> None:
    template = "x" * 5_000
    first = write_gguf(home / "models" / "m-0.gguf", tokenizer__chat_template=template)
    for number in range(1, 200):
        (first.with_name(f"m-{number}.gguf")).write_bytes(first.read_bytes())
    assert len(names(Store(home, catalog=CATALOG))) == 200

    best = min(_seconds_to_list(home) for _ in range(3))

    assert best < 0.3


def _seconds_to_list(home: Path) -> float:
    started = time.process_time()
    Store(home, catalog=CATALOG).list()
    return time.process_time() - started
