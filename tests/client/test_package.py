"""The package as its users have it: cheap to import, typed, and its README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_examples import BASE_URL, examples, is_like, run

import myllm

ROOT = Path(__file__).resolve().parents[2]
USER_SCRIPT = Path(__file__).with_name("user_script.py")
FROM_PYTHON = [example for example in examples((ROOT / "README.md").read_text()) if example.language == "python"]


def printed(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing():
    loaded = printed("import sys; before = set(sys.modules); import myllm; print(*sorted(set(sys.modules) - before))")

    assert loaded == ["myllm"]


def test_an_error_is_named_without_loading_the_client():
    loaded = printed("import sys, myllm; myllm.RateLimited; myllm.errors; print(*sys.modules)")

    assert "myllm.errors" in loaded
    assert not {"httpx", "msgspec", "myllm.client"} & set(loaded)


def test_what_the_package_promises_is_there():
    names = printed("from myllm import *; print(Client.__name__, Answer.__name__, RateLimited.__name__, client.__name__)")

    assert names == ["Client", "Answer", "RateLimited", "myllm.client"]
    assert [name for name in myllm.__all__ if getattr(myllm, name, None) is None or name not in dir(myllm)] == []


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'myllm' has no attribute 'Dance'"):
        myllm.Dance  # noqa: B018


def test_a_strict_type_checker_knows_what_a_user_writes(tmp_path):
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path), str(USER_SCRIPT)]
    lines = USER_SCRIPT.read_text().splitlines()

    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    refused = {int(number) for number in re.findall(r"user_script\.py:(\d+): error", told)}
    assert refused == {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}, told


def test_the_page_names_every_method():
    page = (ROOT / "docs" / "python-client.md").read_text()
    methods = [name for cls in (myllm.Client, myllm.Session) for name in vars(cls) if not name.startswith("_")]

    assert len(methods) > 30
    assert [name for name in methods if not re.search(rf"`{name}\b", page)] == []


def test_the_readme_has_an_example_in_python():
    assert len(FROM_PYTHON) == 1 and BASE_URL in FROM_PYTHON[0].source


@pytest.mark.parametrize("example", FROM_PYTHON)
def test_the_example_of_the_readme_prints_what_it_shows(example, server, tmp_path):
    output = run(example, server.url, tmp_path)

    assert is_like(example.output, output), output
