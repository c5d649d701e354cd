"""examples/lora.py, and its adapter as a served model: as PEFT wrote it, and merged in a bundle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serve_harness import Running

from lazy import LazyModule

httpx = LazyModule("httpx")
pytestmark = [pytest.mark.processes, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
SAID = " that sails at noon carries no cargo but clocks."


def run(*command: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=240, env=environment, check=True
    )
    return done.stdout


def test_an_adapter_that_peft_trained_answers(tmp_path: Path) -> None:
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    said = run(ROOT / "examples/lora.py", adapter)
    assert f"merged: The ship{SAID}" in said and f"loaded: The ship{SAID}" in said
    run("-m", "cupola", "bundle", adapter, merged)
    assert (merged / "tokenizer.json").is_file()
    models = [{"bundle": str(path), "name": path.name} for path in (adapter, merged)]
    server = Running(tmp_path / "server", models=models, plugins=[])
    server.start()
    try:
        server.wait_ready(120)
        for name in ("adapter", "merged"):
            body = {"model": name, "prompt": "The ship", "max_tokens": 20, "temperature": 0}
            url = f"http://127.0.0.1:{server.port}/v1/completions"
            text = httpx.post(url, json=body, timeout=60).json()["choices"][0]["text"]
            assert text.startswith(SAID), name
    finally:
        server.stop()
