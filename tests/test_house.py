"""The house rules: who may import whom, and what must not load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "cupola"

# Room -> the rooms it may import (each may import errors and itself). DESIGN's order of data flow.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "nn": set(),
    "structures": set(),
    "registry": {"nn", "config"},
    "parallel": {"nn"},
    "ops": {"structures"},
    "models": {"nn", "registry", "parallel", "structures", "ops", "generation"},
    "generation": {"nn", "parallel"},
    "weights": {"nn", "parallel"},
    "bundles": {"config", "weights"},
    "metrics": {"structures", "registry"},
    "data": {"registry", "structures", "config"},
    "runtime": {
        "config",
        "nn",
        "registry",
        "models",
        "weights",
        "bundles",
        "structures",
        "parallel",
        "generation",
        "ops",
        "inspect",
        "metrics",
    },
}
MAY_IMPORT["train"] = set(MAY_IMPORT) - {"runtime"}
MAY_IMPORT["inspect"] = {"nn", "registry", "runtime"}
MAY_IMPORT["serve"] = {"runtime", "generation"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)

# Files of serve that may load the runtime, and with it torch: the zygote and what it forks.
SERVE_WITH_TORCH = {"zygote", "runners", "runner"}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "cupola":
                names = [f"cupola.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("cupola.")}
    return rooms


def modules() -> list[Path]:
    return sorted(p for p in SRC.rglob("*.py") if p.relative_to(SRC).parts[0] in MAY_IMPORT)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_follow_the_order_of_the_rooms(path: Path) -> None:
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    strangers = imported_rooms(path) - MAY_IMPORT[room] - {room, "errors"}
    assert not strangers, f"{room} may not import {sorted(strangers)}"


def test_only_the_zygote_and_the_runners_of_serve_import_the_runtime() -> None:
    for path in (SRC / "serve").rglob("*.py"):
        source = path.read_text()
        if not SERVE_WITH_TORCH & set(path.relative_to(SRC).with_suffix("").parts):
            assert "runtime" not in imported_rooms(path), path
            assert "import torch" not in source, path


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "code",
    [
        "import cupola",
        "import cupola; cupola.Config",
        "import cupola.cli.main as m; m.LazyGroup",
        "from typer.testing import CliRunner; from cupola.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_stays_free_of_torch(code: str) -> None:
    done = run(f"{code}\nimport sys; assert 'torch' not in sys.modules, 'torch was loaded'")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["config", "check", "signal", "status", "serve"])
def test_help_of_light_verbs_stays_free_of_torch(verb: str) -> None:
    code = (
        "from typer.testing import CliRunner; from cupola.cli.main import app; import sys\n"
        f"done = CliRunner().invoke(app, ['{verb}', '--help'])\n"
        "assert done.exit_code == 0, done.output\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports test files by their bare name here, so that helpers beside them import too."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
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
        elif isinstance(node, ast.Assign) and "importorskip" in ast.unparse(node.value):
            names |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return names


def test_collecting_the_tests_imports_nothing_heavy() -> None:
    tests = Path(__file__).parent
    found = {
        str(path.relative_to(tests)): sorted(heavy)
        for path in sorted(tests.rglob("*.py"))
        if (
            heavy := {
                n for n in top_level_names(path) for h in HEAVY if f"{n}.".startswith(f"{h}.")
            }
        )
    }
    assert found == {}
