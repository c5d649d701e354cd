"""Environments of their own for packages that are too heavy, or too old, for the tests' one.

They are made when a slow test first asks for them, and kept in pytest's cache folder.
"""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

LOCKS = Path(__file__).parent.parent


def python_with(config: pytest.Config, *requirements: str, inherit: bool = False) -> Path:
    """The Python of an environment with some packages.

    inherit: whether it sees the packages of the tests' environment, which then stay as they are.
    """
    key = hashlib.sha256(repr((sys.version, requirements, inherit)).encode()).hexdigest()[:12]
    folder = Path(config.cache.mkdir("environments")) / key  # type: ignore[union-attr]
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        options = []
        if inherit:
            ours = sysconfig.get_path("purelib")
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "inherited.pth").write_text(f"{ours}\n")
            pins = [
                line.split("+")[0]
                for name in ("requirements.lock", "requirements-dev.lock")
                for line in (LOCKS / name).read_text().splitlines()
                if line.startswith(("torch==", "transformers==", "numpy=="))
            ]
            (folder / "constraints.txt").write_text("\n".join(pins))
            options = ["--constraint", folder / "constraints.txt"]
        command = [python, "-m", "pip", "install", "--quiet", *options, *requirements]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return python


def node_with(config: pytest.Config, *packages: str) -> Path:
    """A folder in which Node finds some packages."""
    key = hashlib.sha256(repr(packages).encode()).hexdigest()[:12]
    folder = Path(config.cache.mkdir("environments")) / f"node-{key}"  # type: ignore[union-attr]
    if not (folder / "complete").exists():
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", *packages]
        subprocess.run(command, cwd=folder, check=True)
        (folder / "complete").touch()
    return folder
