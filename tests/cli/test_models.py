"""The verbs on models, without a server and beside one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.programs import environment, run

from myllm.chat.library import TemplateLibrary
from myllm.store.catalog import Catalog, bundled_model
from myllm.store.store import Store


@pytest.fixture
def file(tmp_path):
    """A model file of somebody's."""
    return shutil.copy(bundled_model(), tmp_path / "somebody's.gguf")


def names(listed):
    return [model["name"] for model in json.loads(listed.stdout)["models"]]


def test_the_bundled_model_is_listed_in_an_empty_home(alone):
    listed = alone("list")

    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["NAME", "tiny"]
    assert alone("ls").stdout == listed.stdout


def test_a_list_in_a_pipe_is_not_cut_to_a_width(tmp_path):
    long_name = "a-very-long-name-" * 8 + "end"
    env = environment(tmp_path) | {"COLUMNS": "40"}
    run(["cp", "tiny", long_name], env)

    assert f"\n{long_name} " in run(["list"], env).stdout


def test_json_of_the_list_has_what_a_script_needs(alone):
    model = json.loads(alone("list", "--json").stdout)["models"][0]

    assert model["name"] == "tiny"
    assert model["size_bytes"] == bundled_model().stat().st_size
    assert "chat" in model["capabilities"]


def test_show_tells_metadata_and_parameters(alone):
    shown = alone("show", "tiny").stdout

    assert "Q4_K_M" in shown
    assert "temperature 0.2" in shown


def test_show_tells_the_tensors_by_type(alone):
    shown = alone("show", "tiny").stdout
    details = json.loads(alone("show", "tiny", "--json").stdout)["details"]

    assert "Q4_K 38 (2.4 MB), Q6_K 5 (645 kB), F32 13 (13.3 kB)" in shown
    assert details["tensor_types"]["Q6_K"] == {"count": 5, "num_bytes": 645_120}


def test_show_json_holds_the_template_itself(alone):
    shown = json.loads(alone("show", "tiny", "--json").stdout)

    assert shown["details"]["chat_template"] == alone("show", "tiny", "--template").stdout.rstrip("\n")


@pytest.mark.parametrize("said_by", ["the settings", "the copy"])
def test_show_has_the_template_that_a_chat_would_get(alone, tmp_path, said_by):
    """A template that was laid over the model was shown by its name where its text was asked for."""
    home = tmp_path / "home"
    home.mkdir()
    if said_by == "the settings":
        (home / "config.toml").write_text('[models.tiny]\ntemplate = "chatml"\n')
    else:
        Store(home, bundled=bundled_model(), catalog=Catalog.load()).copy("tiny", "other", template="chatml")

    model = "tiny" if said_by == "the settings" else "other"

    whole = alone("show", model, "--template").stdout
    name = json.loads(alone("show", model, "--json").stdout)["template"]

    assert (name, whole.rstrip("\n")) == ("chatml", TemplateLibrary().get("chatml").source.rstrip("\n"))


def test_a_file_is_imported_where_it_lies_and_rm_leaves_it_there(alone, file):
    imported = alone("import", file, "--name", "mine")
    listed = names(alone("list", "--json"))
    removed = alone("rm", "mine", "--yes")

    assert imported.returncode == removed.returncode == 0
    assert listed == ["mine", "tiny"]
    assert names(alone("list", "--json")) == ["tiny"]
    assert Path(file).stat().st_size == bundled_model().stat().st_size


def test_a_copy_has_its_own_name(alone):
    copied = alone("cp", "tiny", "other")

    assert copied.stdout == "'other' is installed\n"
    assert names(alone("list", "--json")) == ["other", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "nope"], "model 'nope' not found; installed: tiny"),
        (["show", "\x1b[2J"], "model '\x1b[2J' not found"),  # a pipe gets it as it is
        (["cp", "nope", "other"], "model 'nope' not found"),
        (["cp", "tiny", "../up"], "'../up' cannot be a model's name"),
        (["cp", "tiny", "TINY"], "the name 'TINY' is taken"),
        (["import", "missing.gguf"], "missing.gguf"),
        (["rm", "tiny", "-y"], "it cannot be removed"),
        (["rm", "nope", "-y"], "model 'nope' not found"),
    ],
)
def test_what_the_store_refuses_is_one_line_and_exit_code_1(arguments, reason, alone):
    refused = alone(*arguments)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ")
    assert reason.replace("\x1b", "�") in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_file_that_is_no_model_is_not_imported(alone, tmp_path):
    (tmp_path / "text.gguf").write_text("I am no model.")

    refused = alone("import", str(tmp_path / "text.gguf"))

    assert refused.returncode == 1
    assert "text.gguf" in refused.stderr
    assert names(alone("list", "--json")) == ["tiny"]


def test_list_tells_of_a_file_that_it_leaves_out(alone, tmp_path):
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "broken.gguf").write_text("I am no model.")

    listed = alone("list", "--json")

    assert names(listed) == ["tiny"]
    assert listed.stderr.startswith("warning: model file ")
    assert "broken.gguf" in listed.stderr


def test_rm_asks_and_where_nobody_can_answer_it_does_nothing(alone):
    alone("cp", "tiny", "kept")

    refused = alone("rm", "kept")

    assert refused.returncode == 1
    assert "nobody is there to be asked whether to remove 'kept'; add --yes" in refused.stderr
    assert "kept" in names(alone("list", "--json"))


def test_rm_does_not_remove_what_a_prefix_happens_to_mean(alone, myllm):
    for each in (alone, myllm):
        each("cp", "tiny", "family:1b")

        refused = each("rm", "family", "-y")

        assert "if you mean 'family:1b', write its whole name" in refused.stderr
        assert "family:1b" in names(each("list", "--json"))
    myllm("rm", "family:1b", "-y")


def test_rm_asks_a_person(terminal, myllm):
    myllm("cp", "tiny", "asked")

    first = terminal("rm", "asked")
    first.expect("Remove 'asked'?")
    first.type("n\n")
    first.wait()
    was_kept = "asked" in names(myllm("list", "--json"))
    second = terminal("rm", "asked")
    second.expect("Remove 'asked'?")
    second.type("y\n")
    second.expect("'asked' is removed")

    assert was_kept
    assert "asked" not in names(myllm("list", "--json"))


def test_a_running_model_is_unloaded_before_it_is_removed(myllm):
    myllm("cp", "tiny", "running")
    myllm("load", "running")
    loaded = [model["name"] for model in json.loads(myllm("ps", "--json").stdout)["models"]]

    removed = myllm("rm", "running", "-y")

    assert "running" in loaded
    assert removed.returncode == 0
    assert [model["name"] for model in json.loads(myllm("ps", "--json").stdout)["models"]] == ["tiny"]


def test_load_and_stop_are_seen_by_ps(myllm):
    myllm("cp", "tiny", "visitor")

    loaded = myllm("load", "visitor", "--context", "256", "--parallel", "2", "--keep-alive", "-1", "--pin")
    status = next(model for model in json.loads(myllm("ps", "--json").stdout)["models"] if model["name"] == "visitor")
    listed = myllm("ps").stdout
    stopped = myllm("stop", "visitor")
    myllm("rm", "visitor", "-y")

    assert loaded.stdout == "Model 'visitor' loaded\n"
    assert (status["cells_total"], status["parallel"], status["pinned"]) == (256, 2, True)
    assert [line.split()[-1] for line in listed.splitlines() if line.startswith("visitor")] == ["pinned"]
    assert stopped.stdout == "Model 'visitor' unloaded\n"
    assert "visitor" not in myllm("ps").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["load", "nope"], "model 'nope' not found"),
        (["stop", "../../health"], "model '../../health' not found"),
        (["stop", ""], "error: "),
        (["load", "tiny", "--context", "-5"], "'context_size' takes"),
        (["load", "tiny", "--keep-alive", "soon"], "'keep_alive'"),
        (["load", "100% \u2028#?x"], "not found"),
    ],
)
def test_what_the_server_refuses_is_one_line_and_exit_code_1(arguments, reason, myllm):
    refused = myllm(*arguments)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr


def test_load_and_stop_print_json(myllm):
    assert json.loads(myllm("load", "tiny", "--json").stdout) == {"status": "success", "message": "Model 'tiny' loaded"}


def test_settings_that_are_broken_are_named_by_verbs_that_read_them(alone, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("prot = 1")

    refused = alone("list")

    assert refused.returncode == 1
    assert "unknown setting 'prot'" in refused.stderr
