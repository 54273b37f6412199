"""Let schemathesis think of requests: every operation of /openapi.json, on a server of its own.

What it must never see: a status 500, a status that the reference does not name, an answer of another type or content type than
told, a body taken that its schema forbids. The server's home is a temporary folder, the Hub cannot be reached, and no other
program's models are seen, so nothing that is pulled, created or deleted touches anything. schemathesis is installed once into
`.venv/fuzz`. Only the standard library is used.

    .venv/bin/python scripts/fuzz.py                              # about five minutes
    .venv/bin/python scripts/fuzz.py --max-examples 500           # what follows is schemathesis' own
    .venv/bin/python scripts/fuzz.py --include-path-regex ^/api/
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "fuzz"
REQUIREMENT = "schemathesis>=4.32,<5"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
# Told and meant: the Hub that is not there, a model that was asked to be larger than the machine.
CONFIG = """
[[operations]]
include-path-regex = "/pull$"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 502]

[[operations]]
include-path-regex = "/load$"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 503]
"""


def schemathesis() -> str:
    """The program, installed where it is not."""
    program = FOLDER / "bin" / "schemathesis"
    if not program.exists():
        print("myllm: installing schemathesis into .venv/fuzz, once", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        subprocess.run([str(FOLDER / "bin" / "pip"), "install", "--quiet", REQUIREMENT], check=True)
    return str(program)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server whose whole world is this folder. Its log is there, too."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MYLLM_", "HF_", "OLLAMA_"))}
    env |= {"MYLLM_HOME": str(folder / "home"), "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    env |= {"HF_ENDPOINT": "http://127.0.0.1:1", "MYLLM_CONTEXT_SIZE": "256", "MYLLM_IN_PLACE": ""}
    log = folder / "server.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "myllm.cli.main", "serve", "--port", "0", "--model", "tiny"]
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        while not (found := re.search(r"ready at (\S+)", log.read_text())):
            if process.poll() is not None:
                sys.exit(f"myllm: the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield found[1]
        if process.poll() is not None:
            sys.exit(f"myllm: the server ended in the middle:\n{log.read_text()[-5000:]}")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    program = schemathesis()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "schemathesis.toml"
        config.write_text(CONFIG)
        with served(folder) as url:
            command = [program, "--config-file", str(config), "run", f"{url}/openapi.json", "--wait-for-schema", "60"]
            command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
            done = subprocess.run([*command, *sys.argv[1:]], cwd=folder, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
