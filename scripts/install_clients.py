"""Install the real clients that tests/clients runs: a virtual environment and a node_modules folder in `.venv/clients`.

They have an environment of their own because they bring hundreds of packages that MyLLM does not need and whose versions it
shall not depend on. A second run with the same lists costs nothing. Without Node.js the npm clients are left out, and
their tests say so. Only the standard library is used.

    python3 scripts/install_clients.py
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "tests" / "clients"
FOLDER = ROOT / ".venv" / "clients"
PYTHON = FOLDER / "python" / "bin" / "python"
NODE = FOLDER / "node"
STATE = FOLDER / ".installed"


def wanted() -> str:
    """What is to be there, as one line: the lists' hash, and whether there is Node.js to install for."""
    lists = b"".join((LISTS / name).read_bytes() for name in ("requirements.txt", "package.json"))
    return f"{hashlib.sha256(lists).hexdigest()} {'node' if shutil.which('npm') else 'no node'}"


def run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"myllm: installing {what} failed:\n{done.stdout[-3000:]}\nmyllm: `make test CLIENTS=no` tests without them")


def install() -> None:
    print("myllm: installing the clients that the tests run, once: about 2 min", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    run("their environment", [sys.executable, "-m", "venv", str(FOLDER / "python")])
    run("the Python clients", [str(PYTHON), "-m", "pip", "install", "--quiet", "--requirement", str(LISTS / "requirements.txt")])
    npm = shutil.which("npm")
    if npm:
        NODE.mkdir(parents=True)
        shutil.copy(LISTS / "package.json", NODE)
        run("the npm clients", [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(NODE)])
    else:
        print("myllm: no npm found, so the JavaScript clients are not tested", flush=True)


if __name__ == "__main__":
    state = wanted()
    if not STATE.exists() or STATE.read_text() != state:
        install()
        STATE.write_text(state)
