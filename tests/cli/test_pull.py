"""`pull` and `update`, without a server, at a Hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.programs import CONTROL_C, Terminal, environment, run
from hub_server import HubServer
from store.pull_world import FILE, MB, REPO, model_bytes

NAME = f"{REPO}:Q4_K_M"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub = HubServer()
    yield hub
    hub.close()


@pytest.fixture
def env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "home", "http://127.0.0.1:1") | {"HF_ENDPOINT": hub.url}


@pytest.fixture
def at_home(env: dict[str, str]) -> Callable:
    """`myllm ARGUMENTS` in a home that this Hub fills."""
    return lambda *arguments: run(arguments, env)


@pytest.fixture
def terminal(env: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal(arguments, env))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.end()


def test_a_pull_in_a_pipe_tells_its_progress_in_lines_beside_the_answer(at_home: Callable, hub: HubServer) -> None:
    hub.add(REPO, FILE, model_bytes(5 * MB))
    hub.rate = 10 * MB

    pulled = at_home("pull", f"hf.co/{REPO}")

    assert (pulled.returncode, pulled.stdout) == (0, f"'{NAME}' is installed (5 MB); try it with: myllm run {NAME}\n")
    lines = pulled.stderr.splitlines()
    assert lines[0].startswith(f"{NAME}:   0%  0 B of 5 MB")
    assert lines[-1] == f"{NAME}: done"
    assert 3 <= len(lines) <= 13
    assert "\x1b" not in pulled.stderr


def test_several_models_are_pulled_and_one_that_fails_stops_no_other(at_home: Callable, hub: HubServer) -> None:
    hub.add(REPO, FILE, model_bytes())
    hub.add("org/Other", "other.gguf", model_bytes())

    pulled = at_home("pull", "org/Nothing", REPO, "org/Other", REPO)

    assert pulled.returncode == 1
    assert pulled.stdout.count("is installed") == 2
    assert pulled.stderr.splitlines()[-1].startswith(f"error: {hub.url} has no repository 'org/Nothing'")
    assert [model["name"] for model in json.loads(at_home("list", "--json").stdout)["models"]] == ["org/Other/other", NAME, "tiny"]


def test_a_quantisation_that_is_not_there_is_answered_with_those_that_are(at_home: Callable, hub: HubServer) -> None:
    hub.add(REPO, FILE, model_bytes())
    hub.add(REPO, "some-Q8_0.gguf", model_bytes(2 * MB))

    pulled = at_home("pull", f"{REPO}:Q2_K")

    assert (pulled.returncode, pulled.stdout) == (1, "")
    assert pulled.stderr == f"error: {REPO} has no 'Q2_K'; it offers: Q4_K_M (0.1 MB), Q8_0 (2.0 MB)\n"


@pytest.mark.parametrize("variable", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}])
def test_without_a_hub_the_error_is_one_line_that_says_why(env: dict[str, str], variable: dict[str, str]) -> None:
    pulled = run(["pull", REPO], env | variable)

    assert (pulled.returncode, pulled.stderr.count("\n")) == (1, 1)
    assert ("HF_HUB_OFFLINE" in pulled.stderr) or ("http://127.0.0.1:1 cannot be reached" in pulled.stderr)


def test_an_update_tells_what_changed(at_home: Callable, hub: HubServer) -> None:
    hub.add(REPO, FILE, model_bytes())
    hub.add("org/Other", "other.gguf", model_bytes())
    at_home("pull", REPO, "org/Other")
    hub.add(REPO, FILE, model_bytes(seed=2))

    updated = at_home("update", "--all")

    assert updated.returncode == 0
    assert sorted(updated.stdout.splitlines()) == ["'org/Other/other' is up to date", f"'{NAME}' is updated"]
    assert at_home("update", NAME).stdout == f"'{NAME}' is up to date\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "--all"), (["--all", "x"], "--all"), (["tiny"], "not pulled from the Hub"), (["nothing"], "not found")],
)
def test_an_update_of_nothing_is_an_error(at_home: Callable, arguments: list[str], told: str) -> None:
    updated = at_home("update", *arguments)

    assert (updated.returncode, told in updated.stderr) == (1, True)


def test_a_pulled_model_is_shown_and_removed_like_any_other(at_home: Callable, hub: HubServer) -> None:
    hub.add(REPO, FILE, model_bytes())
    at_home("pull", REPO)

    shown = json.loads(at_home("show", f"hf.co/{REPO}", "--json").stdout)
    removed = at_home("rm", "--yes", NAME)

    assert (shown["name"], shown["source"]) == (NAME, "pulled")
    assert (removed.returncode, Path(shown["path"]).exists()) == (0, False)


def test_a_terminal_shows_a_bar_and_control_c_leaves_what_the_next_pull_resumes(
    terminal: Callable[..., Terminal], at_home: Callable, hub: HubServer
) -> None:
    content = hub.add(REPO, FILE, model_bytes(20 * MB))
    hub.rate = 4 * MB
    window = terminal("pull", REPO)
    bar = window.expect("MB/s")

    window.type(CONTROL_C)
    window.expect("stopped; the next pull goes on from here")
    code = window.wait()
    before = hub.num_served
    hub.rate = None
    resumed = at_home("pull", REPO)

    assert "looking it up" in bar and NAME in bar
    assert (code, resumed.returncode) == (130, 0)
    assert len(content) // 50 < before < len(content)
    assert hub.num_served - len(content) < before
    assert ":   0%" not in resumed.stderr
