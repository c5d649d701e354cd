"""Writes the lock files from pyproject.toml.

    python scripts/lock.py VENV [--upgrade]

requirements.lock holds what running and serving need, requirements-dev.lock the rest: training,
export, tests, checks and documentation. Without --upgrade every version that is already locked
stays; to update one package only, delete its line first.
"""

import re
import subprocess
import sys
from pathlib import Path

from install import prepare

ROOT = Path(__file__).parent.parent
PLATFORM = "# Python 3.11, Linux x86-64. Written by `make lock`.\n"


def pins(path: Path) -> list[str]:
    """The pinned lines of a lock file; none where there is no such file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if "==" in line]


def resolve(folder: Path, kept: list[str], *extras: str) -> list[str]:
    """`name==version` of every package needed, sorted; those of `kept` as they stand there."""
    python, environment = prepare(folder)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(kept))
    command = [str(python), "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", *extras]
    options = ["--no-header", "--no-annotate", "--python-version", "3.11"]
    # A constraint, not a preference: torch==2.13.0 shall match 2.13.0+cpu if the index has that.
    options += ["--constraints", str(constraints)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return [re.sub(r"\+\w+$", "", line) for line in done.stdout.splitlines() if "==" in line]


def main() -> None:
    folder, upgrade = Path(sys.argv[1]), "--upgrade" in sys.argv[2:]
    run, dev = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
    kept = [] if upgrade else pins(run) + pins(dev)
    needed = resolve(folder, kept)
    rest = [line for line in resolve(folder, kept + needed, "--all-extras") if line not in needed]
    head = "# Exact versions of what running and serving need.\n"
    run.write_text(head + PLATFORM + "\n".join(needed) + "\n")
    head = "# Exact versions of what training, exporting, testing, checking and documenting add.\n"
    dev.write_text(head + PLATFORM + "-r requirements.lock\n" + "\n".join(rest) + "\n")


if __name__ == "__main__":
    main()
