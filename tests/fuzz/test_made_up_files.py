"""Made-up files of every kind are read, or end in one clear error, and do nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KINDS = (
    *("info", "checkpoint", "safetensors", "coco", "panoptic", "nuscenes", "image", "tokenizer"),
)
MANY = {"info": 10_000, "checkpoint": 5_000, "tokenizer": 3_000}
CORPUS = Path(__file__).parent / "corpus"


def read(kind: str, *arguments: object) -> dict[str, Any]:
    """Runs the oracle; fails on any fault and gives its summary."""
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.oracle", kind, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *faults, summary = map(json.loads, done.stdout.splitlines())
    assert not faults, "\n".join(f"{each['file']}: {each['fault']}" for each in faults[:5])
    return dict(summary)


def test_a_few_files_and_what_was_found() -> None:
    files = sorted(path for kind in KINDS for path in (CORPUS / kind).glob("*"))
    assert len(files) > 5
    assert read("all", 0, 25)["read"] > 10
    assert read("all", *files)["count"] == len(files)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_files(kind: str) -> None:
    assert read(kind, 1000, MANY.get(kind, 20_000))["read"] > 100
