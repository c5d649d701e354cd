"""pyproject.toml declares what src imports, and nothing else; the lock files hold all of it."""

import ast
import re
import sys
import tomllib
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "cupola"

# Used without an import of ours.
INDIRECT = {
    "scikit-image",  # its sample photographs are read as files
    "tensorboard",  # by torch.utils.tensorboard
    "zarr", "h5netcdf",  # engines of xarray
    "onnx", "onnxruntime",  # by torch.onnx
}  # fmt: skip
# Packages that several distributions share.
NAMESPACES = {
    "google.protobuf": "protobuf",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry": "opentelemetry-sdk",
}
# Imported, but not declared.
UNDECLARED = {
    "pydantic-core",  # a part of pydantic
    "onnx-ir",  # a part of onnxscript
    "starlette",  # a part of ray[serve]
    "nuscenes-devkit",  # needs an old numpy, so it has an environment of its own
    "nuscenes",
    "supervision",  # Detections.to_supervision converts for those who have it
}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def names(requirements: list[str]) -> set[str]:
    return {normalized(re.split(r"[^\w.-]", line)[0]) for line in requirements}


def run_dependencies() -> set[str]:
    return names(project()["dependencies"])


def extras(*which: str) -> set[str]:
    groups = project()["optional-dependencies"]
    return set().union(*(names(groups[each]) for each in which or groups))


def imported(top_level: bool = False) -> dict[str, set[str]]:
    """Distribution -> the files of src that import it, at module level only if so asked."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in SRC.rglob("*.py"):
        if "configs" in path.relative_to(SRC).parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if top_level else ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in modules:
                root = module.split(".")[0]
                if root != "cupola" and root not in sys.stdlib_module_names:
                    shared = [NAMESPACES[name] for name in NAMESPACES if module.startswith(name)]
                    for name in shared[:1] or distributions.get(root, [root]):
                        found.setdefault(normalized(name), set()).add(str(path.relative_to(SRC)))
    return found


def test_every_import_is_declared() -> None:
    declared = (
        run_dependencies()
        | extras("train", "weather", "grib", "export", "openvino", "grpc", "otel", "ray")
        | extras("albumentations")
        | UNDECLARED
    )
    assert {name: files for name, files in imported().items() if name not in declared} == {}


def test_importing_a_module_needs_only_the_run_dependencies() -> None:
    needed = imported(top_level=True)
    needed["ray"] = {file for file in needed["ray"] if not file.startswith("ray/")}  # its extra
    known = run_dependencies() | UNDECLARED
    extra = {n: files for n, files in needed.items() if files and n not in known}
    assert extra == {}


def test_every_declared_dependency_is_imported() -> None:
    declared = run_dependencies() | extras(
        "train", "weather", "grib", "export", "grpc", "otel", "ray", "albumentations"
    )
    assert declared - set(imported()) - INDIRECT == set()


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line.split("==") for line in lines if "==" in line]
    return {normalized(package): version for package, version in pins}


def test_the_lock_files_hold_every_declared_dependency() -> None:
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert run_dependencies() - set(run) == set()
    assert extras() - set(run) - set(dev) == set()
    assert set(run) & set(dev) == set()
