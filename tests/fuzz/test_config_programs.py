"""Made-up configs give what CPython gives, or one error, and do nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CORPUS = sorted((Path(__file__).parent / "corpus" / "config").glob("*.py"))


def read(*arguments: object) -> dict[str, Any]:
    """Runs the oracle; fails on any fault and gives its summary."""
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.config_oracle", *map(str, arguments)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    *faults, summary = map(json.loads, done.stdout.splitlines())
    assert not faults, "\n".join(f"{each['text']}\n--> {each['fault']}" for each in faults[:5])
    assert summary["peak"] < 200e6
    return dict(summary)


def test_what_was_found_stays_repaired() -> None:
    summary = read(*CORPUS)
    assert summary["count"] == len(CORPUS)
    assert summary["read"] == len(CORPUS) - 2  # two of them are to be refused


def test_a_few_programs() -> None:
    assert read(0, 500)["read"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20_000, 5_000))
def test_many_programs(first: int) -> None:
    assert read(first, 5_000)["read"] > 1_000
