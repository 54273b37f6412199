"""`myllm serve`: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
from contextlib import closing

import httpx
import pytest
from cli.programs import Server, environment, run


@pytest.fixture
def start(tmp_path):
    started = []

    def start_server(*arguments, env=None):
        started.append(Server(tmp_path / "home", tmp_path / "log", *arguments, env=env))
        return started[-1]

    yield start_server
    for server in started:
        server.end()


def test_the_greeting_tells_the_address_the_models_folder_and_what_to_try(server):
    assert f"ready at {server.url}\n" in server.greeting
    assert str(server.home / "models") in server.greeting
    assert f"MYLLM_HOST={server.url} myllm run tiny" in server.greeting
    assert "\x1b" not in server.greeting  # a pipe has no colours


def test_the_curl_line_of_the_greeting_works_as_it_stands(server):
    line = next(line for line in server.greeting.splitlines() if "curl" in line)

    answered = subprocess.run([*shlex.split(line), "--silent"], capture_output=True, text=True, timeout=60, check=True)

    assert answered.stdout.startswith('data: {"token":"Hello')
    assert json.loads(answered.stdout.split("data: ")[-1])["done"] is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_exit_code_0(number, start):
    server = start()

    assert server.stop(number) == 0
    assert "Traceback" not in server.log.read_text()


def test_ctrl_c_lets_a_running_answer_go_on(start, endless_path):
    server = start("--model", "endless", env={"MYLLM_MODEL_DIRS": str(endless_path.parent)})
    body = {"model": "endless", "prompt": "Once", "stream": True}

    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        while "stopping: running requests may finish" not in server.log.read_text():
            next(lines)
        following = [line for line, _ in zip(lines, range(100), strict=False) if line]

    assert following and all('"done":false' in line for line in following)
    assert server.process.wait(60) == 0


def test_a_second_ctrl_c_stops_at_once_and_without_a_stack_trace(start, endless_path):
    server = start("--model", "endless", env={"MYLLM_MODEL_DIRS": str(endless_path.parent)})
    body = {"model": "endless", "prompt": "Once", "stream": True}

    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60) as response:
        chunks = response.iter_raw()
        next(chunks)
        server.process.send_signal(signal.SIGINT)
        while "stopping" not in server.log.read_text():
            next(chunks)
        server.process.send_signal(signal.SIGINT)
        code = server.process.wait(60)

    assert code == 0
    assert "Traceback" not in server.log.read_text()


def test_a_port_in_use_is_one_line_with_its_number(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]

        refused = run(["serve", "--port", str(port)], environment(tmp_path))

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: port {port} on 127.0.0.1 is already in use")
    assert refused.stderr.count("\n") == 1


def test_a_setting_that_this_version_cannot_honour_stops_the_start(tmp_path):
    refused = run(["serve"], environment(tmp_path) | {"MYLLM_UI_PORT": "3000"})

    assert refused.returncode == 1
    assert "ui_port: not supported in this version yet" in refused.stderr


def test_an_ollama_port_in_use_is_told_with_both_ways_out(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = run(["serve", "--port", "0", "--ollama-port", str(port)], environment(tmp_path))

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: port {port} on 127.0.0.1 is already in use")
    assert "--ollama-port" in refused.stderr and "ollama_port_required = false" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--config", "missing.toml"], "missing.toml"),
        (["--port", "70000"], "port in --port is 70000"),
        (["--log-level", "loud"], "log_level in --log-level is 'loud'; it takes"),
        (["--ssl-keyfile", "key.pem"], "HTTPS needs both"),
        (["--threads", "-1"], "threads in --threads is -1"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(arguments, reason, tmp_path):
    refused = run(["serve", *arguments], environment(tmp_path))

    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_settings_file_of_the_home_is_read_and_a_flag_wins_over_it(tmp_path, start):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text('port = 1\nparallel = 3\nlog_level = "warning"\n')

    server = start()  # --port 0 is the flag
    httpx.post(f"{server.url}/api/models/tiny/load", timeout=60).raise_for_status()
    status = httpx.get(f"{server.url}/api/status").json()

    assert status["models"][0]["parallel"] == 3
    assert server.log.read_text() == ""  # nothing to warn of, and the access log is info


def test_flags_reach_the_model_that_is_loaded_at_start(start):
    server = start("--model", "tiny", "--context", "512", "--parallel", "2")
    httpx.post(f"{server.url}/api/models/tiny/load", timeout=60).raise_for_status()  # waits for the load that runs

    loaded = httpx.get(f"{server.url}/api/status").json()["models"][0]

    assert (loaded["cells_total"], loaded["parallel"]) == (512, 2)


def test_a_path_with_a_line_break_forges_no_line_of_the_log(start):
    server = start()

    httpx.get(f"{server.url}/x%0a2026-01-01%20forged")
    server.stop()

    assert "\n2026-01-01 forged" not in server.log.read_text()
    assert "GET /x\\x0a2026-01-01 forged 404" in server.log.read_text()
