"""The program as a whole: what it imports, what it says about itself, how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cli.programs import COMMAND, environment, run
from typer.testing import CliRunner

from myllm import __version__
from myllm.cli.main import app

HEAVY = {"gguf", "httpx", "llama_cpp", "msgspec", "numpy", "platformdirs", "prompt_toolkit", "starlette", "uvicorn"}
VERBS = ["serve", "run", "list", "ps", "show", "load", "stop", "rm", "cp", "import"]


def imported(arguments: list[str], env: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments], env=env, capture_output=True, text=True, check=True
    )
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["serve", "--help"], ["run", "--help"], ["sessions", "--help"], ["keys", "--help"]]
)
def test_a_word_of_help_loads_nothing_heavy(arguments, tmp_path):
    modules = imported(arguments, environment(tmp_path))

    assert "typer" in modules  # the list was read
    assert modules & HEAVY == set()


def test_a_client_verb_does_not_load_the_server_or_the_engine(server):
    modules = imported(["ps"], environment(server.home, server.url))

    assert modules & {"gguf", "llama_cpp", "numpy", "starlette", "uvicorn"} == set()


def test_help_names_every_verb(alone):
    shown = alone("--help")

    assert shown.returncode == 0
    assert [verb for verb in [*VERBS, "sessions", "keys"] if f" {verb} " not in shown.stdout] == []


@pytest.mark.parametrize(
    "verb",
    [
        *([verb] for verb in VERBS),
        *(["sessions", verb] for verb in ("list", "show", "fork", "rm", "export")),
        *(["keys", verb] for verb in ("create", "list", "revoke")),
    ],
)
def test_every_verb_explains_itself_with_an_example(verb):
    shown = CliRunner().invoke(app, [*verb, "--help"])

    assert "Example" in shown.stdout
    assert f"myllm {' '.join(verb)}" in shown.stdout


def test_the_version_is_that_of_the_package(alone):
    assert alone("--version").stdout == f"myllm {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["fly"], ["show"], ["list", "--nope"], ["serve", "--port", "many"], ["sessions", "fork", "x", "--at", "0"]]
)
def test_a_command_line_that_is_not_understood_exits_with_2(arguments, alone):
    refused = alone(*arguments)

    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "tiny", "Hello!"], ["ps"], ["load", "tiny"], ["stop", "tiny"], ["sessions", "list"], ["sessions", "show", "x"],
        ["sessions", "fork", "x"], ["sessions", "rm", "x", "-y"], ["sessions", "export", "x"],
    ],
)  # fmt: skip
def test_a_verb_that_needs_the_server_says_how_to_start_it(arguments, alone):
    refused = alone(*arguments)

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr == "error: no MyLLM server at http://127.0.0.1:1; start one with: myllm serve (or set MYLLM_HOST)\n"


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(server):
    env = environment(server.home, server.url) | {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}

    assert run(["ps"], env).returncode == 0


def test_an_address_that_is_none_is_named(tmp_path):
    refused = run(["ps"], environment(tmp_path, "http://a b"))

    assert refused.returncode == 1
    assert "MYLLM_HOST is 'http://a b'" in refused.stderr


def test_a_reader_that_leaves_early_sees_no_traceback(server):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as out:
        done = subprocess.run([*COMMAND, "list"], env=environment(server.home), stdout=out, stderr=subprocess.PIPE, check=False)

    assert b"Traceback" not in done.stderr


def test_the_shell_completes_the_names_of_models(tmp_path):
    words = {"_MYLLM_COMPLETE": "complete_bash", "COMP_WORDS": "myllm show ti", "COMP_CWORD": "2"}
    script = "import sys; from myllm.cli.main import app; sys.argv[0] = 'myllm'; app(prog_name='myllm')"
    env = environment(tmp_path) | words

    completed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert completed.stdout.split() == ["tiny"]


def test_completion_stays_silent_where_the_settings_are_broken(tmp_path):
    (tmp_path / "config.toml").write_text("not toml")
    words = {"_MYLLM_COMPLETE": "complete_bash", "COMP_WORDS": "myllm show ti", "COMP_CWORD": "2"}
    script = "import sys; from myllm.cli.main import app; sys.argv[0] = 'myllm'; app(prog_name='myllm')"
    env = environment(tmp_path) | words

    completed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert (completed.stdout.strip(), completed.stderr) == ("", "")
