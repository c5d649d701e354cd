"""Benches run by hand, so that nobody would notice a name that is gone: all are looked up here."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BENCHES = sorted((ROOT / "bench").glob("*.py"))
FOLDERS = [str(ROOT / name) for name in ("bench", "tests", "tests/serve")]
OURS = {path.stem for folder in FOLDERS for path in Path(folder).glob("*.py")}


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Benches import one another, and what tests of the server share.

    `serve` and `config` are other modules for other tests, which get them back.
    """
    theirs = {name: module for name, module in sys.modules.items() if is_ours(name)}
    for name in theirs:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [*FOLDERS, *sys.path])
    yield
    for name in filter(is_ours, list(sys.modules)):
        del sys.modules[name]
    sys.modules.update(theirs)


def is_ours(name: str) -> bool:
    """Whether a module, or the package that it is in, is a bench or a part of the tests."""
    return name.partition(".")[0] in OURS


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_all_names_that_a_bench_imports_exist(bench: Path) -> None:
    tree = ast.parse(bench.read_text())
    importlib.import_module(bench.stem)
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):  # also imports inside functions
        if not isinstance(node, ast.ImportFrom):
            continue
        if not is_ours(str(node.module)) and str(node.module).partition(".")[0] != "cupola":
            continue
        for alias in node.names:
            found = imported(str(node.module), alias.name)
            if isinstance(found, ModuleType):
                modules[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


def imported(module: str, name: str) -> object:
    """What `from module import name` imports."""
    parent = importlib.import_module(module)
    return (
        getattr(parent, name)
        if hasattr(parent, name)
        else importlib.import_module(f"{module}.{name}")
    )
