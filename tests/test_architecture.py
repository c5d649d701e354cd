"""Who may import whom, and what must not load torch."""

import ast
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SRC = TESTS.parent / "src" / "cupola"

# Package -> the packages it may import (each may import errors and itself), in the order in which
# data flows.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "cores": set(),
    "files": set(),
    "config": {"files"},
    "nn": set(),
    "structures": set(),
    "ops": {"structures"},
    "registry": {"nn", "config"},
    "parallel": {"nn"},
    "generation": {"nn", "parallel"},
    "models": {"nn", "registry", "parallel", "structures", "ops", "generation"},
    "weights": {"files", "nn", "parallel"},
    "bundles": {"files", "config", "weights"},
    "metrics": {"files", "structures", "registry"},
    "data": {"files", "registry", "structures", "config"},
}
MAY_IMPORT["runtime"] = set(MAY_IMPORT) - {"data", "ops"}
MAY_IMPORT["train"] = set(MAY_IMPORT) - {"runtime"}
MAY_IMPORT["inspect"] = {"files", "nn", "registry", "parallel", "structures", "models", "bundles"}
MAY_IMPORT["inspect"] |= {"generation", "weights", "runtime"}
MAY_IMPORT["serve"] = {
    "",
    "cores",
    "runtime",
    "generation",
    "bundles",
}  # "" is cupola, for __version__
MAY_IMPORT["ray"] = {"serve"}
MAY_IMPORT["compat"] = {"config", "weights", "bundles", "structures", "runtime"}
MAY_IMPORT["cli"] = set(MAY_IMPORT) | {""}

# Packages of serve whose processes load the models, and with them torch: the zygote, the runners.
SERVE_WITH_TORCH = {"zygote", "runners", "runner"}


@lru_cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name, a package's __init__ by the package's."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC.parent).with_suffix("").parts
        if parts[1] != "configs":  # published configs are data
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@lru_cache
def imports(module: str) -> set[str]:
    """The modules of the project that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules() else node.module for name in names}
    return {name for name in found if name in modules() and name != module}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_follow_the_order_of_the_packages(name: str) -> None:
    allowed = MAY_IMPORT[name] | {name, "errors"}
    wrong = [
        f"{module} imports {target}"
        for module in modules()
        if package(module) == name
        for target in sorted(imports(module))
        if package(target) not in allowed
    ]
    assert wrong == []


def test_every_package_is_in_the_table() -> None:
    assert {package(module) for module in modules()} - {"", "__main__"} == set(MAY_IMPORT)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other: strongly connected components, after Tarjan."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], index[target])
        if lowest[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert cycles(graph) == [["a", "b", "c"], ["e", "f"]]


def test_no_import_cycle() -> None:
    """An import inside a function counts too: it may be lazy, but the dependency is there."""
    graph = {module: imports(module) for module in modules()}
    shown = [
        "\n".join(f"  {module} -> {sorted(graph[module] & set(cycle))}" for module in cycle)
        for cycle in cycles(graph)
    ]
    assert not shown, "import cycles:\n" + "\n\n".join(shown)


def test_only_the_zygote_and_the_runners_of_serve_import_the_runtime() -> None:
    for module, path in modules().items():
        if package(module) == "serve" and not SERVE_WITH_TORCH & set(module.split(".")):
            assert not {"runtime", "generation"} & {package(m) for m in imports(module)}, module
            assert "import torch" not in path.read_text(encoding="utf-8"), module


def run(code: str) -> None:
    """Runs code in a process of its own; AssertionError with its traceback if it fails."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


NO_TORCH = "\nimport sys; assert 'torch' not in sys.modules, 'torch was loaded '"


@pytest.mark.parametrize(
    "code",
    [
        "import cupola",
        "import cupola; cupola.Config",
        "import cupola.bundles; cupola.bundles.Bundle.load('detr-digits').config",
        "import cupola.cli.main as m; m.LazyGroup",
        "from typer.testing import CliRunner; from cupola.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_stays_free_of_torch(code: str) -> None:
    run(code + NO_TORCH)


@pytest.mark.parametrize(
    "name",
    [
        "config",
        "cli",
        *(f"serve.{n}" for n in ("master", "worker", "settings", "ipc", "http", "cache")),
    ],
)
def test_every_module_of_a_package_stays_free_of_torch(name: str) -> None:
    inside = [m for m in modules() if f"{m}.".startswith(f"cupola.{name}.")]
    assert inside
    run("".join(f"import {module}{NO_TORCH} 'by {module}'\n" for module in inside))


@pytest.mark.parametrize("command", ["config", "check", "signal", "status", "serve"])
def test_help_of_light_commands_stays_free_of_torch(command: str) -> None:
    run(
        "from typer.testing import CliRunner; from cupola.cli.main import app\n"
        f"done = CliRunner().invoke(app, ['{command}', '--help'])\n"
        "assert done.exit_code == 0, done.output" + NO_TORCH
    )


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports test files by their bare name here, so that helpers beside them import too."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted({n for n in names if names.count(n) > 1}) == []


# Slow to import: tests use them through tests/lazy.py or inside a function.
HEAVY = {
    "aiohttp", "h5py", "httpx", "matplotlib", "mmengine", "netCDF4", "onnx", "onnxruntime",
    "onnxscript", "openai", "pandas", "playwright", "schemathesis", "skimage", "sklearn",
    "torch._dynamo", "torch._inductor", "torch.testing._internal", "transformers", "tritonclient",
    "xarray", "zarr",
}  # fmt: skip


def top_level_names(path: Path) -> set[str]:
    """What a file imports when it is imported, pytest.importorskip included."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Assign | ast.Expr) and "importorskip" in ast.unparse(node.value):
            names |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return {str(name) for name in names}


def heavy(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in HEAVY for end in range(1, len(parts) + 1))


def test_collecting_the_tests_imports_nothing_heavy() -> None:
    found = {
        str(path.relative_to(TESTS)): names
        for path in sorted(TESTS.rglob("*.py"))
        if (names := sorted(filter(heavy, top_level_names(path))))
    }
    assert found == {}
