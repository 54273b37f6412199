"""What becomes of the settings where Ollama's own variables are set."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from myllm.config import Settings, load_settings
from myllm.errors import ConfigInvalid


def test_a_unit_that_ran_ollama_runs_this_server() -> None:
    env = {
        "OLLAMA_HOST": "0.0.0.0:11434",
        "OLLAMA_KEEP_ALIVE": "24h",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_ORIGINS": "app://*,http://box",
    }

    settings = load_settings(env=env)

    assert (settings.ollama_host, settings.ollama_port) == ("0.0.0.0", 11434)
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.keep_alive, settings.context_size) == (86400.0, 8192)
    assert settings.cors_origins == ("app://*", "http://box")


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("0.0.0.0", "0.0.0.0", 11434),
        ("box:8080", "box", 8080),
        (":8080", "0.0.0.0", 8080),
        ("::1", "::1", 11434),
        ("[::1]", "::1", 11434),
        ("[::]:8080", "::", 8080),
        ("http://box", "box", 80),
        ("https://box/", "box", 443),
        ("http://box:8080/ollama", "box", 8080),
        (' "127.0.0.1:8080" ', "127.0.0.1", 8080),
        ("127.0.0.1:99999", "127.0.0.1", 11434),
        ("127.0.0.1:x", "127.0.0.1", 11434),
        ("http://", "127.0.0.1", 80),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(written: str, host: str, port: int) -> None:
    settings = load_settings(env={"OLLAMA_HOST": written})

    assert (settings.ollama_host, settings.ollama_port) == (host, port)


@pytest.mark.parametrize(
    ("written", "seconds"), [("5m", 300), ("1h30m0s", 5400), ("0", 0), ("30", 30), ("-1", math.inf), ("-1m", math.inf)]
)
def test_a_keep_alive_may_be_negative_and_is_for_ever_then(written: str, seconds: float) -> None:
    assert load_settings(env={"OLLAMA_KEEP_ALIVE": written}).keep_alive == seconds


def test_whatever_we_are_told_goes_over_what_ollama_was_told(tmp_path: Path) -> None:
    ollama = {"OLLAMA_KEEP_ALIVE": "1h", "OLLAMA_CONTEXT_LENGTH": "1", "OLLAMA_ORIGINS": "http://theirs", "OLLAMA_HOST": "0.0.0.0:1"}
    file = tmp_path / "config.toml"
    file.write_text('cors_origins = []\nkeep_alive = "1m"\n')

    settings = load_settings(file=file, env=ollama | {"MYLLM_CONTEXT_SIZE": "0"}, flags={"ollama_port": 2})

    assert (settings.cors_origins, settings.keep_alive, settings.context_size) == ((), 60.0, 0)
    assert (settings.ollama_host, settings.ollama_port, settings.ollama_port_required) == ("0.0.0.0", 2, True)


@pytest.mark.parametrize(
    ("env", "address"),
    [
        ({"MYLLM_HOST": "127.0.0.1"}, (None, 11434)),
        ({"MYLLM_OLLAMA_HOST": "::1"}, ("::1", 11434)),
        ({"MYLLM_OLLAMA_PORT": "0"}, (None, None)),
    ],
)
def test_an_address_of_ours_keeps_the_ollama_listener_where_we_are(env: dict[str, str], address: Any) -> None:
    settings = load_settings(env=env | {"OLLAMA_HOST": "0.0.0.0"})

    assert (settings.ollama_host, settings.ollama_port) == address


def test_a_port_that_only_ollamas_variable_names_does_not_stop_the_start() -> None:
    assert not load_settings(env={"OLLAMA_HOST": "gpu-box"}).ollama_port_required
    assert load_settings(env={"OLLAMA_HOST": "gpu-box", "MYLLM_OLLAMA_PORT_REQUIRED": "yes"}).ollama_port_required
    assert load_settings(env={"MYLLM_OLLAMA_PORT": "11434"}).ollama_port_required


@pytest.mark.parametrize("variable", ["OLLAMA_KEEP_ALIVE", "OLLAMA_CONTEXT_LENGTH"])
def test_a_value_that_cannot_be_read_is_left_out_with_a_warning(variable: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings = load_settings(env={variable: "a while"})

    assert settings == Settings()
    assert [variable in record.getMessage() and "left out" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("text", ["", "  ", '""'])
def test_an_empty_variable_says_nothing(text: str) -> None:
    variables = ("OLLAMA_HOST", "OLLAMA_KEEP_ALIVE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_ORIGINS")

    assert load_settings(env=dict.fromkeys(variables, text)) == Settings()


def test_an_address_for_a_listener_that_is_off_is_an_error() -> None:
    with pytest.raises(ConfigInvalid, match="ollama_host is ::1, but ollama_port is not set"):
        load_settings(env={"MYLLM_OLLAMA_HOST": "::1"})
