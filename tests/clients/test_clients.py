"""The real clients, unmodified, against the running server: each script is what one client's users write.

A script takes the server's address (and that of its Ollama API, where it is not below it), prints a line for each thing that
it tried, and ends with status 1 at the first that went wrong. The clients are installed by `scripts/install_clients.py`
(`make test` does) into an environment of their own. Node looks for packages beside the script, so the .mjs files are run from
a copy that lies beside its node_modules.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import LiveServer, wait_until

HERE = Path(__file__).resolve().parent
INSTALLED = HERE.parent.parent / ".venv" / "clients"
SCRIPTS = sorted(
    path for path in HERE.iterdir() if path.suffix in (".py", ".mjs", ".sh") and not path.name.startswith(("test_", "checks", "conftest"))
)
TIMEOUT_S = 240


# Each script at the main port, and the clients of Ollama also at its own.
RUNS = [
    pytest.param(script, is_at_own_port, id=script.name + ("-own-port" if is_at_own_port else ""))
    for script in SCRIPTS
    for is_at_own_port in ([False, True] if "ollama" in script.name else [False])
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, endless_path: Path) -> Iterator[LiveServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("--model", "tiny", "--ollama-port", str(port))
    settings = {"MYLLM_MODEL_DIRS": str(endless_path.parent), "HF_ENDPOINT": "http://127.0.0.1:9"}
    live = LiveServer(tmp_path_factory.mktemp("home"), *arguments, **settings)
    live.ollama_url = f"http://127.0.0.1:{port}"
    wait_until(lambda: live.http.get("/health").status_code == 200, "the model was loaded at start")
    yield live
    live.stop()


def command(script: Path, folder: Path) -> list[str]:
    """How the script is run; skips where its language or its client is not installed."""
    if script.suffix == ".sh":
        return ["bash", str(script)]
    if not (INSTALLED / ".installed").exists():
        pytest.skip("the clients are not installed: python scripts/install_clients.py")
    if script.suffix == ".py":
        return [str(INSTALLED / "python" / "bin" / "python"), str(script)]
    if not (INSTALLED / "node" / "node_modules").exists():
        pytest.skip("Node.js is not installed")
    for path in (script, HERE / "checks.mjs"):
        shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(INSTALLED / "node" / "node_modules")
    return ["node", str(folder / script.name)]


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize(("script", "is_at_own_port"), RUNS)
def test_a_client_gets_what_its_users_expect(script: Path, is_at_own_port: bool, server: LiveServer, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {"HOME": str(tmp_path)}

    urls = [server.url, server.ollama_url if is_at_own_port else f"{server.url}/ollama"]
    done = subprocess.run(
        [*command(script, tmp_path), *urls], capture_output=True, text=True, timeout=TIMEOUT_S, env=env, cwd=tmp_path, check=False
    )

    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.count("ok  ") >= 4


def test_the_documentation_lists_every_script() -> None:
    page = (HERE.parent.parent / "docs" / "clients.md").read_text()

    assert [script.name for script in SCRIPTS if f"`{script.name}`" not in page] == []
