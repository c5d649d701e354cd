"""Writes docs/ecosystem.md and its Chinese page: what tools do with modules of Cupola.

    python -m venv /tmp/ecosystem
    /tmp/ecosystem/bin/pip install -e . -r scripts/ecosystem_probes/requirements.txt
    /tmp/ecosystem/bin/python scripts/ecosystem.py          # all, and write both pages
    /tmp/ecosystem/bin/python scripts/ecosystem.py fx peft  # only print what these do

Each tool runs in a process of its own, three times: on a network of torch.nn, whose failure is the
tool's own, on the same network of cupola.nn, and on that after cupola.nn.to_torch.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from ecosystem_probes import page  # noqa: E402
from ecosystem_probes.common import Form, outcome  # noqa: E402
from ecosystem_probes.tools import TOOLS  # noqa: E402

MARK = "outcome: "  # in front of a line of JSON, among what tools print
LIMIT = 600  # seconds for one tool


def run(name: str) -> dict[str, tuple[str, str]]:
    """The outcomes of one tool by form."""
    command = [sys.executable, "-W", "ignore", __file__, "--in-this-process", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        text = done.stdout
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    lines = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
    found = {form: tuple(result) for form, result in map(json.loads, lines)}
    crashed = ("error", "the process ended")
    return {form: found.get(form, crashed) for form in Form.NAMES}


def report(name: str) -> None:
    """Runs the three forms, and prints a line for each."""
    for form in Form.NAMES:
        print(f"\n{MARK}{json.dumps([form, outcome(TOOLS[name], form)])}", flush=True)


def main(names: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for name in names or TOOLS:
        outcomes = run(name)
        for form, (kind, text) in outcomes.items():
            print(f"{name:20} {form:8} {kind:7} {text}", flush=True)
        tool = TOOLS[name]
        if outcomes["torch"][0] != "works":
            raise SystemExit(f"{name}: the probe does not work with torch.nn either")
        rows.append({"tool": tool, "version": version(tool.package), **outcomes})
    if not names:
        page.write(rows)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--in-this-process"]:
        report(arguments[1])
    else:
        main(arguments)
