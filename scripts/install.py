"""Installs requirements into a virtual environment: with uv, or with pip where uv fails.

    python scripts/install.py VENV ARGUMENT...

Creates VENV if it does not exist. The arguments are those of `pip install`, which uv takes too.
uv does not read pip's settings (index, links, constraints, certificate), so they are passed on.
"""

import ast
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

UV = "uv==0.13.9"

# A setting of pip -> the variable of uv that says the same, and how uv separates several values.
VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
}


def pip_settings(listing: str) -> dict[str, list[str]]:
    """Settings by name from what `pip config list` prints; the environment comes last and wins."""
    lines = [line.partition("=") for line in listing.splitlines() if "=" in line]
    lines.sort(key=lambda line: line[0].startswith(":env:"))
    settings = {}
    for key, _, value in lines:
        name = key.rpartition(".")[2].removeprefix("default-").replace("_", "-")
        settings[name] = str(ast.literal_eval(value)).split()
    return settings


def uv_environment(listing: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with pip's settings added for uv; a variable that is already set stays."""
    # As pip does: the best version of all indexes, not the first index that has the package.
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for name, values in pip_settings(listing).items():
        if name in VARIABLES:
            variable, separator = VARIABLES[name]
            found[variable] = separator.join(values)
    return found | dict(environment)


def prepare(folder: Path) -> tuple[Path, dict[str, str]]:
    """Creates the virtual environment, with uv in it: its Python, and the environment for uv."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=os.name == "posix")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-qq", UV], check=True)
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True)
    return python, uv_environment(listing.stdout, os.environ)


def install(folder: Path, arguments: list[str]) -> None:
    """Raises CalledProcessError where neither uv nor pip succeeds."""
    python, environment = prepare(folder)
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    if subprocess.run([*uv, *arguments], env=environment).returncode:
        print("uv failed, trying pip", file=sys.stderr)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *arguments], check=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]), sys.argv[2:])
