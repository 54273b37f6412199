from __future__ import annotations

import itertools
import logging
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from myllm.config import (
    EngineOptions,
    ModelSection,
    Settings,
    client_base_url,
    home_folder,
    load_settings,
)
from myllm.errors import ConfigInvalid
from myllm.types import SamplingParams

EXAMPLE = Path(__file__).parents[1] / "docs" / "config.example.toml"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str) -> Path:
        file = tmp_path / "settings.conf"
        file.write_text(text)
        return file

    return write_file


def from_file(file: Path, **env: str) -> Settings:
    return load_settings(file=file, env=env)


def test_without_anything_given_every_setting_has_its_default() -> None:
    assert load_settings(env={}) == Settings()


def test_flags_win_over_the_environment_which_wins_over_the_file(write: Any) -> None:
    file = write('port = 1\nthreads = 1\nqueue_size = 1\nlog_level = "debug"')

    settings = load_settings(file=file, env={"MYLLM_THREADS": "2", "MYLLM_QUEUE_SIZE": "2"}, flags={"queue_size": 3, "log_level": None})

    assert (settings.port, settings.threads, settings.queue_size, settings.log_level) == (1, 2, 3, "debug")


def test_an_unknown_key_in_the_file_is_an_error_with_the_file_and_the_nearest_name(write: Any) -> None:
    file = write("contxt_size = 4096")

    with pytest.raises(ConfigInvalid) as caught:
        from_file(file)

    assert all(part in caught.value.message for part in ("contxt_size", str(file), "'context_size'"))


def test_an_unknown_key_in_a_models_table_is_an_error_with_the_nearest_name(write: Any) -> None:
    file = write('[models."a"]\ntemprature = 1')

    with pytest.raises(ConfigInvalid, match=r"temprature.*models.\"a\".*'temperature'"):
        from_file(file)


def test_an_unknown_variable_is_only_warned_of_and_myllm_home_is_known(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_settings(env={"MYLLM_PROT": "1", "MYLLM_HOME": "/x", "PATH": "/bin"})

    assert [record.getMessage() for record in caplog.records] == ["MYLLM_PROT is no setting; the nearest name is MYLLM_PORT"]


def test_an_unknown_flag_is_an_error() -> None:
    with pytest.raises(ConfigInvalid, match="'prot'"):
        load_settings(env={}, flags={"prot": 1})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("port", "9000", 9000),
        ("mmap", "off", False),
        ("mlock", "YES", True),
        ("mlock", "1", True),
        ("api_keys", "first, second,", ("first", "second")),
        ("api_keys", '["a,b"]', ("a,b",)),
        ("models", "a,b", ("a", "b")),
        ("tensor_split", "3,1", (3.0, 1.0)),
        ("tensor_split", "[3, 1]", (3.0, 1.0)),
        ("keep_alive", "1h30m", 5400.0),
        ("keep_alive", "-1", math.inf),
        ("memory_budget", "12GiB", 12 << 30),
        ("memory_budget", "0", None),
        ("max_body_bytes", "1MB", 1_000_000),
        ("ollama_port", "11434", 11434),
        ("ui_port", "0", None),
        ("kv_cache_type", "Q8_0", "q8_0"),
        ("flash_attention", "true", "on"),
        ("flash_attention", "auto", "auto"),
        ("log_level", "DEBUG", "debug"),
        ("default_model", "", None),
        ("model_dirs", "/a,/b", (Path("/a"), Path("/b"))),
    ],
)
def test_a_variable_is_read_by_its_fields_type(key: str, text: str, value: object) -> None:
    settings = load_settings(env={f"MYLLM_{key.upper()}": text})

    assert getattr(settings, key) == value


@pytest.mark.parametrize("key", ["port", "threads", "mmap", "kv_cache_type", "keep_alive", "memory_budget", "tensor_split", "services"])
def test_a_variable_of_the_wrong_kind_is_an_error_that_names_it(key: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"^{key} in MYLLM_{key.upper()} is 'x!y'"):
        load_settings(env={f"MYLLM_{key.upper()}": "x!y"})


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("port = 70000", "<= 65535"),
        ("port = -1", ">= 0"),
        ("context_size = -1", ">= 0"),
        ("context_size = 99999999999999999999999", "<= 2147483647"),
        ("parallel = 257", "<= 256"),
        ("gpu_layers = -2", ">= -1"),
        ("batch_size = 0", ">= 1"),
        ("queue_size = 0", ">= 1"),
        ("max_gap_ms = 0", ">= 1"),
        ("request_timeout = 0", "> 0"),
        ("tensor_split = [-1]", ">= 0"),
        ("tensor_split = [nan]", ">= 0"),
        ("threads = true", "int"),
        ('threads = "4"', "int"),
        ('mmap = "on"', "bool"),
        ('api_keys = "secret"', "array"),
        ('kv_cache_type = "q9"', "q8_0"),
        ("flash_attention = 3", "auto, off, on"),
        ("keep_alive = nan", "not a duration"),
        ("memory_budget = -1", "not a size"),
    ],
)
def test_a_value_out_of_range_is_an_error_with_key_file_and_limit(write: Any, line: str, limit: str) -> None:
    file = write(line)

    with pytest.raises(ConfigInvalid) as caught:
        from_file(file)

    assert line.split(" ", maxsplit=1)[0] in caught.value.message
    assert str(file) in caught.value.message
    assert limit in caught.value.message


def test_an_api_key_is_never_part_of_an_error(write: Any) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        from_file(write('api_keys = "top-secret"'))

    assert "top-secret" not in caught.value.message


@pytest.mark.parametrize("text", ["port = ", "\x00", "= 1", "x" * 100_000, "[" * 100_000])
def test_a_file_that_is_not_toml_is_one_error(write: Any, text: str) -> None:
    with pytest.raises(ConfigInvalid, match="is not TOML"):
        from_file(write(text))


def test_a_file_that_is_missing_binary_or_a_folder_is_one_error(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")

    for file in (tmp_path, tmp_path / "missing", binary):
        with pytest.raises(ConfigInvalid, match=re.escape(str(file))):
            from_file(file)


def test_models_is_a_list_or_tables_that_may_be_loaded_at_start(write: Any) -> None:
    listed = from_file(write('models = ["a", "b"]'))
    tables = from_file(write('[models."a"]\nload = true\n[models."b"]\ncontext_size = 1024'))

    assert listed.models == ("a", "b")
    assert tables.models == ("a",)
    assert tables.engine_options("b").context_size == 1024


def test_a_list_from_the_environment_replaces_load_but_keeps_the_tables(write: Any) -> None:
    settings = from_file(write('[models."a"]\nload = true\nthreads = 3'), MYLLM_MODELS="b")

    assert settings.models == ("b",)
    assert settings.engine_options("a").threads == 3


def test_a_model_table_that_is_no_table_is_an_error_that_explains_both_forms(write: Any) -> None:
    with pytest.raises(ConfigInvalid, match="load = true"):
        from_file(write("[models]\na = 1"))


def test_a_models_section_lies_over_the_general_engine_options(write: Any) -> None:
    settings = from_file(write('threads = 2\nbatch_size = 64\n[models."Llama"]\nthreads = 8\nflash_attention = true'))

    assert settings.engine_options("llama:latest") == EngineOptions(threads=8, batch_size=64, flash_attention="on")
    assert settings.engine_options("other") == EngineOptions(threads=2, batch_size=64)


def test_what_a_model_was_made_with_lies_between_the_general_options_and_its_section(write: Any) -> None:
    settings = from_file(write('threads = 2\nbatch_size = 64\ncontext_size = 1\n[models."a"]\nthreads = 8'))

    options = settings.engine_options("a", {"threads": 4, "context_size": 512})

    assert options == EngineOptions(threads=8, batch_size=64, context_size=512)


def test_a_models_section_gives_only_the_sampling_defaults_that_it_names(write: Any) -> None:
    settings = from_file(
        write('[models.a]\ntemperature = 0.5\nstop = "END"\ntop_k = -1\nthreads = 1\npin = true\nkeep_alive = -1\ntemplate = "t"')
    )

    assert settings.sampling_defaults("a") == {"temperature": 0.5, "stop": ("END",), "top_k": 0}
    assert settings.sampling_defaults("b") == {}
    assert (settings.keep_alive_s("a"), settings.is_pinned("a"), settings.template("a")) == (math.inf, True, "t")
    assert (settings.keep_alive_s("b"), settings.is_pinned("b"), settings.template("b")) == (300.0, False, None)


@pytest.mark.parametrize(
    "line", ["temperature = 2.1", "top_p = -0.1", "top_k = -2", "max_tokens = 0", "stop = ['']", f"stop = {['x'] * 17}"]
)
def test_a_sampling_default_out_of_the_requests_range_is_an_error(write: Any, line: str) -> None:
    with pytest.raises(ConfigInvalid, match=line.split(" ", maxsplit=1)[0]):
        from_file(write(f"[models.a]\n{line}"))


def test_every_sampling_default_is_a_sampling_parameter_that_requests_have(write: Any) -> None:
    names = set(ModelSection.__struct_fields__) - set(EngineOptions.__struct_fields__) - {"load", "pin", "keep_alive", "template"}

    assert names <= set(SamplingParams.__struct_fields__)


def test_engine_options_survive_the_wire_to_the_worker() -> None:
    options = EngineOptions(context_size=2048, tensor_split=(1.0, 3.0), kv_cache_type="q8_0")

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=EngineOptions) == options


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("0.0.0.0", "0.0.0.0", 8000),
        ("0.0.0.0:9000", "0.0.0.0", 9000),
        ("http://127.0.0.1:8001", "127.0.0.1", 8001),
        ("http://127.0.0.1:8001/", "127.0.0.1", 8001),
        ("::1", "::1", 8000),
        ("[::1]:9000", "::1", 9000),
        ("localhost", "localhost", 8000),
    ],
)
def test_the_host_may_carry_the_port(written: str, host: str, port: int) -> None:
    settings = load_settings(env={"MYLLM_HOST": written})

    assert (settings.host, settings.port) == (host, port)


def test_a_port_of_its_own_wins_over_the_one_in_the_host(write: Any) -> None:
    assert load_settings(env={"MYLLM_HOST": "0.0.0.0:9000", "MYLLM_PORT": "9001"}).port == 9001
    assert from_file(write('host = "0.0.0.0:9000"'), MYLLM_PORT="9002").port == 9002


@pytest.mark.parametrize("written", ["http://", "a:b:c", "host:port", "host:99999", "ftp://x", "user@host", "a b", "http://[::1"])
def test_a_host_that_is_no_address_is_an_error_for_server_and_client(written: str) -> None:
    with pytest.raises(ConfigInvalid):
        load_settings(env={"MYLLM_HOST": written})
    with pytest.raises(ConfigInvalid):
        client_base_url({"MYLLM_HOST": written})


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"MYLLM_HOST": ""}, "http://127.0.0.1:8000"),
        ({"MYLLM_HOST": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"MYLLM_HOST": "0.0.0.0:9000"}, "http://127.0.0.1:9000"),
        ({"MYLLM_HOST": "http://0.0.0.0:9000/"}, "http://127.0.0.1:9000"),
        ({"MYLLM_HOST": "[::]:9000"}, "http://[::1]:9000"),
        ({"MYLLM_HOST": "box", "MYLLM_PORT": "9000"}, "http://box:9000"),
        ({"MYLLM_HOST": "https://llm.example.org/base/"}, "https://llm.example.org/base"),
    ],
)
def test_the_client_finds_the_server_under_the_same_variable(env: dict[str, str], url: str) -> None:
    assert client_base_url(env) == url


def test_the_home_is_the_variables_folder_or_the_platforms(tmp_path: Path) -> None:
    assert home_folder({"MYLLM_HOME": str(tmp_path)}) == tmp_path
    assert home_folder({"MYLLM_HOME": "~/m"}) == Path.home() / "m"
    assert home_folder({}).name == "myllm"


def test_the_programs_whose_models_are_used_are_a_list_that_may_be_empty() -> None:
    assert load_settings(env={}).in_place == ("ollama", "lmstudio", "hub")
    assert load_settings(env={"MYLLM_IN_PLACE": ""}).in_place == ()
    assert load_settings(env={"MYLLM_IN_PLACE": "hub, ollama"}).in_place == ("hub", "ollama")
    with pytest.raises(ConfigInvalid, match=r"in_place in MYLLM_IN_PLACE is \['steam'\]; it takes a list of hub, lmstudio, ollama"):
        load_settings(env={"MYLLM_IN_PLACE": "steam"})


def test_a_key_without_its_certificate_two_listeners_on_a_port_and_two_services_on_a_prefix_are_errors(write: Any) -> None:
    for text in (
        'ssl_keyfile = "key.pem"',
        "port = 3000\nui_port = 3000",
        '[services.a]\nprefix = "/x"\n[services.b]\nprefix = "/x"',
        '[services.a]\nprefix = "x"',
        '[services.a]\nprefix = "/x"\nmodel = ["a"]',
    ):
        with pytest.raises(ConfigInvalid):
            from_file(write(text))


def test_the_example_names_every_setting_with_its_default() -> None:
    table = tomllib.loads(EXAMPLE.read_text())

    assert set(table) == set(Settings.__struct_fields__) - {"model_sections"}
    assert from_file(EXAMPLE) == Settings()


def test_every_setting_of_the_example_has_a_comment_above_it() -> None:
    lines = EXAMPLE.read_text().splitlines()

    bare = [line for before, line in itertools.pairwise(lines) if re.match(r"\w+ = |\[", line) and not before.startswith("# ")]

    assert bare == []


def test_the_examples_commented_tables_load_and_name_every_key_of_a_models_own(write: Any) -> None:
    text = EXAMPLE.read_text().replace("models = []\n", "").replace("\n[services]\n", "\n")
    uncommented = re.sub(r"^#   (?=[\[a-z])", "", text, flags=re.MULTILINE)

    settings = from_file(write(uncommented))

    named = set(settings.model_sections["llama-3-8b"])
    assert named >= set(ModelSection.__struct_fields__) - set(EngineOptions.__struct_fields__)
    assert settings.services["code"].models == ("devstral*",)
    assert settings.models == ("llama-3-8b",)
