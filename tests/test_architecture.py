"""The rules of the house, read off the source: who imports what, who reads the environment, what is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "slamlab").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in FILES.items()}
FOLDERS = {
    "zoo": set(),
    "data": {"zoo"},
    "model": {"zoo", "data"},
    "training": {"zoo", "data", "model"},
    "scoring": {"zoo"},
    "export": {"zoo", "data", "model", "scoring"},
    "search": {"scoring"},
    "report": {"zoo", "scoring"},
    "sweep": {"zoo", "data", "model", "training", "scoring", "search", "report"},
}
LIGHT = ("scoring", "search", "report")
"""Folders that run where neither torch nor Ray is installed."""


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """Walk a module, leaving out what only a type checker reads, and what runs only when called where asked to."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        yield node
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from nodes(node, inside_functions=inside_functions)


def imports(name: str, *, inside_functions: bool) -> set[str]:
    """Return the full names that a module imports: of packages, modules, and what is taken from them."""
    found = set()
    for node in nodes(TREES[name], inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(name: str, *, inside_functions: bool = True) -> set[str]:
    return {imported.partition(".")[0] for imported in imports(name, inside_functions=inside_functions)}


def loaded_with(name: str) -> set[str]:
    """Return the modules of slamlab that importing one loads, itself and parents included, by static imports."""
    loaded: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in TREES and module not in loaded:
            loaded.add(module)
            parent = module.rpartition(".")[0]
            waiting += [parent, *imports(module, inside_functions=False)]
    return loaded


def modules_of(*folders: str) -> list[str]:
    return [name for name in TREES if name.split(".")[1:2] and name.split(".")[1] in folders]


def who_imports(package: str) -> set[str]:
    return {name for name in TREES if package in packages(name)}


def test_the_map_of_folders_is_complete() -> None:
    folders = {name.split(".")[1] for name, path in FILES.items() if path.parent != ROOT / "slamlab"}
    assert folders == FOLDERS.keys()


@pytest.mark.parametrize("name", modules_of(*LIGHT))
def test_light_folders_import_neither_torch_nor_ray(name: str) -> None:
    heavy = {"torch", "ray", "deepspeed", "peft"}
    assert not packages(name) & heavy
    for module in loaded_with(name):
        assert not packages(module, inside_functions=False) & heavy, f"{name} loads {module}"
        if "transformers" in packages(module, inside_functions=False):
            assert module == "slamlab.scoring.normalise", f"{name} loads {module}"


def test_light_folders_run_without_torch_and_ray() -> None:
    """The same said by Python itself: an entry of None in `sys.modules` makes an import fail."""
    code = (
        "import importlib, sys; sys.modules.update(torch=None, ray=None, deepspeed=None, peft=None);"
        f"[importlib.import_module(name) for name in {modules_of(*LIGHT)!r}]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ray_is_imported_in_one_folder() -> None:
    assert {name.rpartition(".")[0] for name in who_imports("ray")} == {"slamlab.sweep.cluster"}


def test_deepspeed_is_imported_in_one_place() -> None:
    assert who_imports("deepspeed") == {"slamlab.training.zero"}


def test_optuna_is_imported_by_the_ledger_and_the_search() -> None:
    assert "slamlab.sweep.ledger" in who_imports("optuna")
    assert who_imports("optuna") <= {"slamlab.sweep.ledger", "slamlab.sweep.studies", *modules_of("search")}


@pytest.mark.parametrize("name", modules_of(*FOLDERS))
def test_folders_import_only_what_comes_before(name: str) -> None:
    own = name.split(".")[1]
    allowed = {"errors", "credentials", "disk", "terminal", own, *FOLDERS[own]}
    if name == "slamlab.zoo.corpora":  # opens each corpus by name, so it imports the one asked for, when asked
        assert not any(i.startswith("slamlab.data") for i in imports(name, inside_functions=False))
        allowed.add("data")
    for imported in imports(name, inside_functions=True):
        parts = imported.split(".")
        if parts[0] == "slamlab" and len(parts) > 1:
            assert parts[1] in allowed, f"{name} imports {imported}"


def test_the_package_itself_loads_nothing() -> None:
    assert loaded_with("slamlab") == {"slamlab"}
    assert loaded_with("slamlab.errors") == {"slamlab", "slamlab.errors"}
    assert packages("slamlab", inside_functions=False) <= {"__future__", "typing"}


def test_the_environment_is_read_where_processes_begin() -> None:
    readers = set()
    for name, tree in TREES.items():
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        taken = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "os"
            for alias in node.names
        }
        if names & {"os.environ", "os.getenv", "os.environb"} or taken & {"environ", "getenv", "environb"}:
            readers.add(name)
    assert readers == {
        "slamlab.training.zero",
        *(f"slamlab.sweep.cluster{name}" for name in ("", ".start", ".ranks", ".trackers")),
    }


def test_the_command_line_is_read_by_scripts_alone() -> None:
    assert not who_imports("argparse")
    for name, tree in TREES.items():
        assert "sys.argv" not in {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}, name


@pytest.mark.parametrize("name", TREES)
def test_public_names_are_documented(name: str) -> None:
    tree = TREES[name]
    bare = [] if ast.get_docstring(tree) else ["the module itself"]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            bare.append(node.name)
        for member in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(member, kinds) and not member.name.startswith("_") and not ast.get_docstring(member):
                bare.append(f"{node.name}.{member.name}")
    assert bare == []


def test_no_file_points_outside_the_repository() -> None:
    folders = ("slamlab", "sweeps", "tests", "docs", ".github")
    paths = [p for p in ROOT.iterdir() if p.suffix in (".md", ".toml", ".yaml", ".yml", ".cfg") or p.name == "Makefile"]
    for folder in folders:
        paths += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".yaml", ".yml", ".jinja")]
    workspace = re.compile(r"/work/(main|shared)|\bshared/[A-Z]")
    pointing = [str(p.relative_to(ROOT)) for p in paths if p != Path(__file__) and workspace.search(p.read_text())]
    assert pointing == []
