"""Make .venv ready: create it, compile llama.cpp for this machine, install MyLLM in it. The Makefile's only installer.

What is done already is written down in `.venv/.installed` after each step, so a second run costs nothing, an
interrupted one continues, and another BACKEND recompiles llama.cpp alone. Only the standard library is used. That the
Python is new enough is the Makefile's to check: one that is too old could not even read this file.

    python3 scripts/install.py [--backend auto|cpu|cuda|metal|vulkan] [--dev]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STATE = VENV / ".installed"
LOG = VENV / "install.log"
BACKENDS = {
    "cpu": "-DGGML_METAL=off",
    "cuda": "-DGGML_CUDA=on",
    "metal": "-DGGML_METAL=on",
    "vulkan": "-DGGML_VULKAN=on",
}
ONLY_WHAT_WE_LOAD = "-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=" + shlex.quote(str(ROOT / "scripts" / "llama_only.cmake"))
CPU_SECONDS_TO_COMPILE = 190  # of the cpu backend, measured on one machine; a hint for whoever waits
COMPILERS = {
    "apt-get": "sudo apt-get install build-essential",
    "dnf": "sudo dnf install gcc-c++ make",
    "pacman": "sudo pacman -S base-devel",
    "apk": "sudo apk add build-base linux-headers",
    "zypper": "sudo zypper install gcc-c++ make",
}


def fail(message: str) -> NoReturn:
    sys.exit("myllm: " + message)


def check_compiler() -> None:
    """llama.cpp is compiled here, for this very processor, so a C and a C++ compiler must be there."""
    if sys.platform == "darwin":
        # /usr/bin/cc exists on every Mac; without the command line tools it only opens a dialog.
        if subprocess.run(["xcode-select", "-p"], check=False, capture_output=True).returncode != 0:
            fail("no C++ compiler found, and llama.cpp must be compiled. Install one with: xcode-select --install")
        return
    c_names, cxx_names = [os.environ.get("CC", "cc"), "gcc", "clang"], [os.environ.get("CXX", "c++"), "g++", "clang++"]
    if any(map(shutil.which, c_names)) and any(map(shutil.which, cxx_names)):
        return
    hints = [command for tool, command in COMPILERS.items() if shutil.which(tool)] or list(COMPILERS.values())[:2]
    fail("no C++ compiler found, and llama.cpp must be compiled. Install one with: " + "  or  ".join(hints))


def has_nvidia_gpu() -> bool:
    if Path("/dev/nvidia0").exists():
        return True
    if not shutil.which("nvidia-smi"):
        return False
    return b"GPU" in subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True).stdout


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def detect_backend() -> tuple[str, str]:
    """The backend for this machine, and why. A CUDA compiler alone is not a GPU, and a GPU alone cannot compile."""
    if sys.platform == "darwin":
        return "metal", "this is a Mac"
    if not has_nvidia_gpu():
        return "cpu", "no NVIDIA GPU found"
    if not find_nvcc():
        return "cpu", "an NVIDIA GPU is here but nvcc is not: install the CUDA toolkit, then BACKEND=cuda"
    return "cuda", "NVIDIA GPU and nvcc found"


def choose_backend(asked: str, state: dict[str, str]) -> str:
    """`auto` keeps what is installed and looks at the machine only when nothing is."""
    if asked != "auto":
        return asked
    if "backend" in state:
        return state["backend"]
    backend, reason = detect_backend()
    print(f"myllm: backend {backend} ({reason}; BACKEND=cpu|cuda|metal|vulkan overrides)", flush=True)
    return backend


def fresh_state() -> dict[str, str]:
    """What is true of an environment that was just created here by this Python."""
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "folder": str(VENV)}


def read_state() -> dict[str, str]:
    """What earlier runs finished; nothing, where the environment is gone, broken, moved or of another Python."""
    if not VENV_PYTHON.exists() or not STATE.exists():
        return {}
    try:
        state = json.loads(STATE.read_text())
    except ValueError:
        return {}
    fresh = fresh_state()
    return state if isinstance(state, dict) and fresh.items() <= state.items() else {}


def write_state(state: dict[str, str]) -> None:
    STATE.write_text(json.dumps(state, indent=1) + "\n")


def create_venv() -> None:
    print(f"myllm: creating .venv with Python {sys.version.split()[0]}", flush=True)
    python = getattr(sys, "_base_executable", sys.executable)  # not .venv's own, which is about to go
    if subprocess.run([python, "-m", "venv", "--clear", str(VENV)], check=False, stdout=subprocess.DEVNULL).returncode != 0:
        fail("Python could not create a virtual environment. On Debian and Ubuntu install it with: sudo apt-get install python3-venv")


def llama_requirement(pyproject: str) -> str:
    match = re.search(r'"(llama-cpp-python[^"]*)"', pyproject)
    if match is None:
        fail("pyproject.toml names no llama-cpp-python")
    return match.group(1)


def progress(log_text: str) -> str:
    """How far the compiler is, from the last `[12/74]` (ninja) or `[ 16%]` (make) in its output."""
    steps = re.findall(r"^\s*\[\s*(\d+/\d+|\d+%)\]", log_text, re.MULTILINE)
    return f", {steps[-1]} compiled" if steps else ""


def run_with_heartbeat(what: str, command: list[str], env: dict[str, str], hint: str = "") -> None:
    """Run a long command with its output in the log, and say every few seconds that it lives; a failure ends with the hint."""
    is_terminal = sys.stdout.isatty()
    started = last_line = time.monotonic()
    with LOG.open("ab") as log:
        start_of_log = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=ROOT)
        while process.poll() is None:
            time.sleep(0.5)
            now = time.monotonic()
            if now - last_line < (1 if is_terminal else 15):
                continue
            last_line = now
            print(elapsed_line(what, now - started, start_of_log), end="\r" if is_terminal else "\n", flush=True)
    print(elapsed_line(what, time.monotonic() - started, start_of_log) + (": done" if process.returncode == 0 else ": failed"), flush=True)
    if process.returncode != 0:
        tail = "\n".join(log_since(start_of_log).splitlines()[-25:])
        fail(f"{what} failed; its last lines (all of them are in {LOG.relative_to(ROOT)}):\n{tail}\n{hint}")


def log_since(start: int) -> str:
    with LOG.open("rb") as log:
        log.seek(start)
        return log.read().decode("utf-8", "replace")


def elapsed_line(what: str, seconds: float, start_of_log: int) -> str:
    return f"  {what}: {int(seconds) // 60}m{int(seconds) % 60:02d}s{progress(log_since(start_of_log))}"


def install_llama(requirement: str, backend: str) -> None:
    """Compile from the source distribution. pip's cache is off: it would hand out a wheel of another backend."""
    check_compiler()
    cores = os.cpu_count() or 1
    minutes = "10 minutes or more" if backend in ("cuda", "vulkan") else f"about {max(1, round(CPU_SECONDS_TO_COMPILE / 60 / cores))} min"
    print(f"myllm: compiling llama.cpp for {backend}, once: {minutes} on {cores} cores", flush=True)
    arguments = f"{BACKENDS[backend]} {ONLY_WHAT_WE_LOAD} {os.environ.get('CMAKE_ARGS', '')}"
    env = {"CMAKE_BUILD_PARALLEL_LEVEL": str(cores), **os.environ, "CMAKE_ARGS": arguments}
    nvcc = find_nvcc()
    if backend == "cuda" and nvcc:
        env.setdefault("CUDACXX", nvcc)
    flags = ["-v", "--no-deps", "--no-cache-dir", "--force-reinstall", "--no-binary", "llama-cpp-python"]
    hint = "" if backend == "cpu" else f"myllm: for {backend} its development kit must be installed; BACKEND=cpu needs none"
    run_with_heartbeat("llama.cpp", [str(VENV_PYTHON), "-m", "pip", "install", *flags, requirement], env, hint)


def install_project(extras: str) -> None:
    target = "." + (f"[{extras}]" if extras else "")
    run_with_heartbeat("libraries", [str(VENV_PYTHON), "-m", "pip", "install", "--editable", target], dict(os.environ))


def install(asked_backend: str, is_dev: bool) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    state = read_state()
    backend = choose_backend(asked_backend, state)
    if not state:
        check_compiler()
        create_venv()
        state = fresh_state()
        write_state(state)
    requirement = llama_requirement(pyproject)
    if (state.get("backend"), state.get("llama")) != (backend, requirement):
        install_llama(requirement, backend)
        state.update(backend=backend, llama=requirement)
        write_state(state)
    digest = hashlib.sha256(pyproject.encode()).hexdigest()
    extras = "dev" if is_dev or state.get("extras") == "dev" else ""
    if (state.get("pyproject"), state.get("extras")) != (digest, extras):
        install_project(extras)
        state.update(pyproject=digest, extras=extras)
        write_state(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    args = parser.parse_args()
    try:
        install(args.backend, args.dev)
    except KeyboardInterrupt:
        fail("interrupted; the next run continues where this one stopped")


if __name__ == "__main__":
    main()
