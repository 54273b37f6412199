"""The laws of the house, held by reading every import in `myllm/`, and what README, Makefile and packaging promise.

`ALLOWED` is docs/architecture.md's drawing as a table: an arrow that it lacks fails here, so a new one is drawn on
purpose, in both places, or not at all. Every rule is a function from imports to complaints, and is shown to complain
about a small example before it is trusted with the house.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WORDS = {"errors", "types"}
ALLOWED: dict[str, set[str]] = {
    "": {"client", "errors"},  # myllm/__init__.py, loaded when they are named
    "__main__": {"cli"},
    "errors": set(),
    "types": set(),
    "quantities": {"errors"},
    "ollama_environment": set(),
    "config": {"errors", "ollama_environment", "quantities"},
    "store": WORDS | {"config"},
    "sqlite_file": {"errors"},
    "sessions": WORDS | {"sqlite_file"},
    "chat": WORDS,
    "engine": WORDS | {"config"},
    "worker": set(),
    "worker.messages": WORDS | {"config"},
    "worker.main": WORDS | {"config", "engine", "worker.messages"},
    "worker.handle": WORDS | {"config", "worker.messages"},
    "worker.quantizer": {"errors", "worker.handle"},
    "worker.quantizer_main": {"engine", "errors"},
    "model_builder": WORDS | {"chat", "store", "worker.quantizer"},
    "memory": WORDS | {"config", "store"},
    "free_memory": set(),
    "loaded_model": WORDS | {"config", "memory", "store", "worker.handle"},
    "tally": {"worker.handle"},
    "manager": WORDS | {"config", "free_memory", "loaded_model", "memory", "store", "tally", "worker.handle", "worker.messages"},
    "caller": set(),
    "keys": WORDS | {"caller", "sqlite_file"},
    "spending": WORDS | {"caller"},
    "reply": WORDS | {"spending", "worker.handle"},
    "context_window": WORDS | {"worker.handle"},
    "once": set(),
    "model_templates": WORDS | {"chat", "config", "store"},
    "prompting": WORDS | {"chat", "config", "context_window", "loaded_model", "model_templates", "reply", "store", "worker.handle"},
    "service": WORDS
    | {"caller", "chat", "config", "context_window", "loaded_model", "manager", "once", "prompting", "reply", "sessions", "spending"}
    | {"store", "worker.handle"},
    "server": WORDS
    | {"caller", "chat", "config", "keys", "loaded_model", "manager", "model_builder", "once", "quantities", "reply", "service", "sessions"}
    | {"store"},
    "server.run": WORDS | {"chat", "config", "keys", "manager", "server", "service", "sessions", "store"},  # puts the house together
    "client": WORDS | {"config"},
    "cli": WORDS | {"caller", "chat", "client", "config", "keys", "model_templates", "server.run", "sessions", "store"},
}
CHILDREN = {"worker.main", "worker.quantizer_main"}  # what runs in processes of their own
OWN_ROOMS = {"server.run", "worker.handle", "worker.messages", "worker.quantizer", *CHILDREN}  # files that others' arrows treat apart
DIALECTS = {"native", "openai", "ollama", "gateway", "anthropic"}
HTTP_LIBRARIES = {"aiohttp", "h11", "http", "httptools", "httpx", "requests", "sse_starlette", "starlette", "uvicorn", "websockets"}
DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python"}  # where the import is not the distribution's name with _ for -
LONGEST_FILE = 400
NOT_OURS = {".git", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__", "build", "dist"}


@dataclass(frozen=True)
class Arrow:
    """One import: `myllm.a` imports `b`; typing-only ones count as arrows, but cannot close a cycle at run time."""

    importer: str
    imported: str
    is_typing_only: bool = False

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def read_sources(folder: Path) -> dict[str, str]:
    """Source by dotted module name; a package is named without `__init__`."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


def read_arrows(sources: dict[str, str]) -> list[Arrow]:
    packages = {".".join(name.split(".")[:depth]) for name in sources for depth in range(1, name.count(".") + 1)}
    known = set(sources) | packages
    return [arrow for module, source in sources.items() for arrow in arrows_of(module, source, known, module in packages)]


def arrows_of(module: str, source: str, known: set[str], is_package: bool) -> Iterator[Arrow]:
    """The imports of one module, wherever they stand; `from a import b` points at a.b where that is a module."""
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        for name in imported_names(node, package):
            imported = name if name in known or not name.startswith("myllm") else nearest_module(name, known)
            yield Arrow(module, imported, node in typing_only)


def imported_names(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module"):
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]
    return []


def nearest_module(name: str, known: set[str]) -> str:
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def room_of(module: str) -> str:
    """`myllm.engine.sampler` → engine; worker/ is three rooms, for two processes live there."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in OWN_ROOMS else "".join(parts[:1])


def dialect_of(module: str) -> str | None:
    """`myllm.server.native` and `myllm.server.native.render` → native; None for what all dialects share."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["myllm", "server"] and len(parts) > 2 and parts[2] in DIALECTS else None


def top_level(name: str) -> str:
    return name.partition(".")[0]


def law_1_only_llama_py_imports_llama_cpp(arrows: list[Arrow]) -> list[str]:
    return [str(arrow) for arrow in arrows if top_level(arrow.imported) == "llama_cpp" and arrow.importer != "myllm.engine.llama"]


def law_2_only_the_children_import_the_engine(arrows: list[Arrow]) -> list[str]:
    to_engine = [arrow for arrow in arrows if (arrow.imported + ".").startswith("myllm.engine.")]
    return [str(arrow) for arrow in to_engine if room_of(arrow.importer) not in {"engine", *CHILDREN}]


def law_3_only_the_server_knows_http(arrows: list[Arrow]) -> list[str]:
    """The command line starts uvicorn, and the client asks the server (httpx); they answer no request."""
    knows = {"server": HTTP_LIBRARIES, "server.run": HTTP_LIBRARIES, "cli": {"uvicorn"}, "client": {"httpx"}}
    to_http = [arrow for arrow in arrows if top_level(arrow.imported) in HTTP_LIBRARIES]
    return [str(arrow) for arrow in to_http if top_level(arrow.imported) not in knows.get(room_of(arrow.importer), set())]


def undrawn(arrows: list[Arrow]) -> list[str]:
    complaints = []
    for arrow in arrows:
        if top_level(arrow.imported) != "myllm":
            continue
        here, there = room_of(arrow.importer), room_of(arrow.imported)
        if here != there and there and there not in ALLOWED.get(here, set()):
            complaints.append(str(arrow))
    return complaints


def dialects_that_know_each_other(arrows: list[Arrow]) -> list[str]:
    ends = [(arrow, dialect_of(arrow.importer), dialect_of(arrow.imported)) for arrow in arrows]
    return [str(arrow) for arrow, here, there in ends if here and there and here != there]


def cycles(arrows: list[Arrow]) -> list[str]:
    """Modules that import themselves over others, at run time."""
    graph: dict[str, set[str]] = {}
    for arrow in arrows:
        if not arrow.is_typing_only and top_level(arrow.imported) == "myllm":
            graph.setdefault(arrow.importer, set()).add(arrow.imported)
    return sorted(module for module in graph if module in reachable(graph, graph[module]))


def reachable(graph: dict[str, set[str]], start: set[str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(graph.get(module, ()))
    return seen


def undeclared(arrows: list[Arrow], dependencies: list[str]) -> list[str]:
    declared = {re.split(r"[\[<>=!~; ]", dependency)[0] for dependency in dependencies}
    foreign = {top_level(arrow.imported) for arrow in arrows} - {"myllm", *sys.stdlib_module_names}
    return sorted(name for name in foreign if DISTRIBUTIONS.get(name, name.replace("_", "-")) not in declared)


@pytest.fixture(scope="module")
def arrows() -> list[Arrow]:
    return read_arrows(read_sources(ROOT / "myllm"))


@pytest.fixture(scope="module")
def pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


RULES = [
    law_1_only_llama_py_imports_llama_cpp,
    law_2_only_the_children_import_the_engine,
    law_3_only_the_server_knows_http,
    undrawn,
    dialects_that_know_each_other,
    cycles,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_house_breaks_no_rule(rule, arrows):
    assert len(arrows) > 50  # the house was read

    assert rule(arrows) == []


@pytest.mark.parametrize(
    ("rule", "sources"),
    [
        (law_1_only_llama_py_imports_llama_cpp, {"myllm.engine.sampler": "import llama_cpp"}),
        (law_1_only_llama_py_imports_llama_cpp, {"myllm.engine.engine": "def f():\n    from llama_cpp.llama_cpp import llama_decode"}),
        (law_1_only_llama_py_imports_llama_cpp, {"myllm.store.store": "import importlib\nimportlib.import_module('llama_cpp')"}),
        (law_2_only_the_children_import_the_engine, {"myllm.manager": "from myllm.engine.engine import Engine", "myllm.engine.engine": ""}),
        (law_2_only_the_children_import_the_engine, {"myllm.worker.handle": "from myllm import engine", "myllm.engine.engine": ""}),
        (law_2_only_the_children_import_the_engine, {"myllm.worker.handle": "from ..engine import engine", "myllm.engine.engine": ""}),
        (law_2_only_the_children_import_the_engine, {"myllm.worker.quantizer": "import myllm.engine.llama", "myllm.engine.llama": ""}),
        (law_3_only_the_server_knows_http, {"myllm.service": "from starlette.responses import Response"}),
        (law_3_only_the_server_knows_http, {"myllm.cli.run": "import starlette"}),
        (law_3_only_the_server_knows_http, {"myllm.store.pull": "import httpx"}),
        (undrawn, {"myllm.chat.template": "from myllm.sessions import session", "myllm.sessions.session": ""}),
        (undrawn, {"myllm.types": "from .errors import MyLLMError", "myllm.errors": ""}),
        (undrawn, {"myllm.attic": "import myllm.errors", "myllm.errors": ""}),
        (undrawn, {"myllm.worker.handle": "import myllm.worker.main", "myllm.worker.main": ""}),
        (dialects_that_know_each_other, {"myllm.server.openai": "from myllm.server.native import parse", "myllm.server.native": ""}),
        (dialects_that_know_each_other, {"myllm.server.openai": "import myllm.server.native.render", "myllm.server.native.render": ""}),
        (cycles, {"myllm.engine.a": "import myllm.engine.b", "myllm.engine.b": "def f():\n    from myllm.engine import a"}),
    ],
)  # fmt: skip
def test_a_rule_complains_about_one_who_breaks_it(rule, sources):
    broken = read_arrows(sources)

    assert len(rule(broken)) >= 1


@pytest.mark.parametrize(
    ("rule", "sources"),
    [
        (law_1_only_llama_py_imports_llama_cpp, {"myllm.engine.llama": "import llama_cpp.llama_cpp as C"}),
        (law_2_only_the_children_import_the_engine, {"myllm.worker.main": "import myllm.engine.llama", "myllm.engine.llama": ""}),
        (law_3_only_the_server_knows_http, {"myllm.server.app": "import starlette", "myllm.cli.serve": "import uvicorn"}),
        (undrawn, {"myllm.service": "from myllm.manager import ModelLease\nimport json", "myllm.manager": ""}),
        (dialects_that_know_each_other, {"myllm.server.native.parse": "from . import render", "myllm.server.native.render": ""}),
        (cycles, {"myllm.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import myllm.b", "myllm.b": "import myllm.a"}),
    ],
)
def test_a_rule_leaves_in_peace_who_keeps_it(rule, sources):
    kept = read_arrows(sources)

    assert rule(kept) == []


def test_every_room_is_drawn():
    rooms = {room_of(module) for module in read_sources(ROOT / "myllm")}

    assert rooms - set(ALLOWED) == set()


def test_the_drawing_has_no_cycle():
    drawn = [Arrow(f"myllm.{here}", f"myllm.{there}") for here, others in ALLOWED.items() for there in others]

    assert cycles(drawn) == []


def test_all_but_the_engine_can_be_imported_without_llama_cpp():
    """Law 1 as it runs: the server process never loads llama.cpp, not even over a library of somebody else."""
    modules = [name for name in read_sources(ROOT / "myllm") if room_of(name) not in {"engine", "__main__", *CHILDREN}]
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint('llama_cpp' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program, *modules], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_every_library_that_is_imported_is_declared(arrows, pyproject):
    dependencies = pyproject["project"]["dependencies"]

    assert undeclared([Arrow("myllm.store.pull", "boto3.session")], dependencies) == ["boto3"]
    assert undeclared(arrows, dependencies) == []


def test_every_dependency_has_a_lower_and_an_upper_bound(pyproject):
    project = pyproject["project"]
    dependencies = [*project["dependencies"], *project["optional-dependencies"]["dev"], *pyproject["build-system"]["requires"]]

    assert [each for each in dependencies if not re.fullmatch(r"[a-z0-9-]+(\[\w+\])?>=[\d.]+,<[\d.]+", each)] == []


def test_what_the_wheel_shall_hold_is_there(pyproject):
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert [pattern for pattern in wheel["include"] if not list(ROOT.glob(pattern.lstrip("/")))] == []


def our_files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*")) if path.is_file() and not NOT_OURS & set(path.relative_to(ROOT).parts)]


def test_no_file_is_longer_than_a_reader_holds_in_mind():
    ours = [path for path in our_files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "models"]
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in ours}

    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_file_names_a_folder_of_the_machine_that_wrote_it():
    foreign = re.compile("/(work|root)/" + r"\w")
    temporary = re.compile("/(tmp)/" + r"\w")  # a test may invent a path; the program asks the system for its folders
    texts = {path.relative_to(ROOT): path.read_text(errors="replace") for path in our_files() if path.suffix != ".gguf"}

    named = [str(name) for name, text in texts.items() if foreign.search(text) or (name.parts[0] != "tests" and temporary.search(text))]
    assert named == []


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def test_every_make_target_that_the_readme_names_exists():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^|&& )make ([a-z][a-z-]*)", readme, re.MULTILINE))

    assert {"serve", "test"} <= named
    assert named - make_targets(makefile) == set()


def test_every_make_target_is_explained_or_a_step_of_another():
    makefile = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r"^([a-z][a-z-]*):.*## \w", makefile, re.MULTILINE))

    assert make_targets(makefile) - explained == {"clients", "install-dev"}


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())

    assert len(links) > 0
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_continuous_integration_runs_the_command_of_the_readme():
    script = ROOT / ".ci" / "run"

    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text().splitlines()
