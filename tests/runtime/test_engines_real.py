"""Every engine, for real: the same answers, and a second process that compiles nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cupola.runtime.optimize.registry import ENGINES

NAMES = list(ENGINES)
SHIPPED = [
    "detr-digits",
    "afno-navier-stokes",
    "rtmdet-digits",
    "dino-digits",
    "detr3d-scenes",
]

# Applies an engine in a fresh process, whose environment may forbid compilers and exporters.
CODE = """
import sys
import torch
from cupola.errors import InputError
from cupola.bundles import Bundle
from cupola.runtime import Predictor, tasks
from cupola.runtime.load import execute
from cupola.runtime.optimize.calibration import answers
from cupola.runtime.optimize.tolerance import difference, tolerance_of

torch.set_num_threads(1)
source, names, forbidden = sys.argv[1], sys.argv[2].split(","), sys.argv[3] == "forbidden"
if forbidden:
    from cupola.runtime.optimize import building

    def forbid(*arguments):
        raise AssertionError("a graph was built")

    building.trace = building._start = forbid
bundle = Bundle.load(source)
for name in names:
    predictor = Predictor.load(bundle)
    samples = tasks.find(bundle.task).calibration_samples(predictor, bundle)
    expected = answers(predictor, predictor.model, samples)
    exact = not name.endswith("int8")
    try:
        execute(predictor, bundle, name)
    except InputError as error:
        print(name, "refused:", error)
        continue
    found = answers(predictor, predictor.model, samples)
    apart = [difference(predictor.task, *pair) for pair in zip(found, expected)]
    within = all(each.within(tolerance_of(predictor.task, exact)) for each in apart)
    print(name, "ok" if within else "wrong", apart[0])
    if forbidden:
        modules = [name for name in sys.modules if name.startswith("torch._inductor.codegen")]
        assert not modules, modules
"""


def run(cache: Path, source: str, names: list[str], forbidden: bool = False) -> dict[str, str]:
    environment = {**os.environ, "CUPOLA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    if forbidden:
        environment |= {"PATH": "/nowhere", "CXX": sys.executable}  # there, and no compiler
    command = [sys.executable, "-W", "ignore", "-c", CODE, source, ",".join(names)]
    done = subprocess.run(
        [*command, "forbidden" if forbidden else "allowed"],
        env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    pairs = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return {name: rest for name, rest in pairs if name in NAMES}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("source", SHIPPED)
def test_engines_agree_and_the_second_start_builds_nothing(source: str, tmp_path: Path) -> None:
    first = run(tmp_path, source, NAMES)
    print(first)
    assert set(first) == set(NAMES)
    exact = {name: text for name, text in first.items() if ENGINES[name].exact}
    assert not [name for name, text in exact.items() if text.startswith("wrong")], first
    ran = [name for name, text in first.items() if text.startswith("ok")]
    assert {"eager", "folded"} <= set(ran), first
    again = run(tmp_path, source, ran, forbidden=True)
    assert {name: text.split()[0] for name, text in again.items()} == dict.fromkeys(ran, "ok")


@pytest.mark.slow
def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    found = run(tmp_path, "afno-navier-stokes", ["compiled"])
    assert "no C++ compiler (g++ or c++ or clang++) on PATH" in found["compiled"]


def test_missing_libraries_are_named(monkeypatch: Any) -> None:
    import torch

    from cupola.runtime.optimize import onnx_engines

    monkeypatch.setattr(onnx_engines, "find_spec", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert ENGINES["onnxruntime"].missing(cpu) == "not installed; pip install cupola[export]"
    assert ENGINES["openvino"].missing(cpu) == "not installed; pip install cupola[openvino]"
    reason = ENGINES["compiled"].missing(cpu)
    assert reason == "no C++ compiler (g++ or c++ or clang++) on PATH"
    assert ENGINES["compiled"].missing(meta) == (
        "compiles for the CPU and CUDA, and the model is on meta"
    )
    assert ENGINES["int8"].missing(meta) == "computes on the CPU, and the model is on meta"
