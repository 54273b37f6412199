"""The installer on machines that lack something: run for real, in an empty folder, with a PATH of our making."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_GPU_DEVICE = Path("/dev/nvidia0").exists()

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="a Mac's backend and compiler do not depend on PATH")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A bare copy of what the installer reads, and a PATH folder without any program."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def add_program(checkout: Path, name: str, says: str = "") -> None:
    program = checkout / "bin" / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)


def run_installer(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "CMAKE_ARGS")}
    environment["PATH"] = str(checkout / "bin")
    command = [sys.executable, str(checkout / "scripts" / "install.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def load_installer(checkout: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("installer", checkout / "scripts" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_compiler_it_says_what_to_install_and_leaves_nothing_behind(checkout):
    add_program(checkout, "dnf")

    done = run_installer(checkout)

    assert done.returncode != 0
    assert "no C++ compiler" in done.stderr and "dnf install gcc-c++" in done.stderr
    assert "apt-get" not in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_c_compiler_alone_is_not_enough(checkout):
    add_program(checkout, "gcc")

    done = run_installer(checkout)

    assert "no C++ compiler" in done.stderr


@pytest.mark.skipif(HAS_GPU_DEVICE, reason="this machine has an NVIDIA GPU")
def test_a_cuda_compiler_alone_is_not_a_gpu(checkout):
    add_program(checkout, "nvcc")

    done = run_installer(checkout)

    assert "backend cpu (no NVIDIA GPU found" in done.stdout


@pytest.mark.skipif(HAS_GPU_DEVICE, reason="this machine has an NVIDIA GPU")
def test_a_driver_without_a_gpu_is_not_a_gpu(checkout):
    add_program(checkout, "nvcc")
    add_program(checkout, "nvidia-smi", says="No devices were found")

    done = run_installer(checkout)

    assert "backend cpu" in done.stdout


def test_a_gpu_and_its_compiler_choose_cuda(checkout):
    add_program(checkout, "nvcc")
    add_program(checkout, "nvidia-smi", says="GPU 0: NVIDIA H200 (UUID: GPU-1)")

    done = run_installer(checkout)

    assert "backend cuda" in done.stdout


def test_a_backend_that_does_not_exist_is_refused_with_the_list_of_those_that_do(checkout):
    done = run_installer(checkout, "--backend", "rocm")

    assert done.returncode == 2
    assert "cpu" in done.stderr and "vulkan" in done.stderr


def test_a_finished_installation_costs_no_second_look(checkout):
    installer = load_installer(checkout)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch()
    pyproject = (checkout / "pyproject.toml").read_text()
    state = installer.fresh_state() | {"backend": "cpu", "llama": installer.llama_requirement(pyproject), "extras": "dev"}
    state["pyproject"] = installer.hashlib.sha256(pyproject.encode()).hexdigest()
    installer.write_state(state)

    done = run_installer(checkout, "--dev")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # what is installed is told


@pytest.mark.parametrize(
    ("name", "value"),
    [("python", "3.8"), ("folder", "elsewhere/.venv")],
    ids=["another Python", "a moved checkout"],
)
def test_an_environment_that_cannot_work_any_more_is_not_trusted(checkout, name, value):
    installer = load_installer(checkout)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch()
    installer.write_state(installer.fresh_state() | {"backend": "cuda"})
    assert installer.read_state()["backend"] == "cuda"

    installer.write_state(installer.fresh_state() | {"backend": "cuda", name: value})

    assert installer.read_state() == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", json.dumps({"python": 3})])
def test_a_damaged_state_file_means_a_fresh_installation(checkout, text):
    installer = load_installer(checkout)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch()
    (checkout / ".venv" / ".installed").write_text(text)

    assert installer.read_state() == {}


def test_the_remembered_backend_stays_until_another_is_asked_for(checkout):
    installer = load_installer(checkout)

    assert installer.choose_backend("auto", {"backend": "vulkan"}) == "vulkan"
    assert installer.choose_backend("cpu", {"backend": "vulkan"}) == "cpu"


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("", ""),
        ("Collecting llama-cpp-python[12/40]", ""),
        ("  [1/74] c++ a\n  [2/74] c++ b\n", ", 2/74 compiled"),
        ("[ 16%] Building C object", ", 16% compiled"),
    ],
)
def test_progress_is_read_from_the_build_tools_own_words(checkout, log, shown):
    assert load_installer(checkout).progress(log) == shown
