"""`optimization = "auto"` of DETR-R50 against OpenVINO and onnxruntime: `bench/detr.py --auto`.

All three in float32 at 800 x 1066, batch 1, on the CPU, in turns, with the graph that we export;
and the time from the start of a process to its first answer, from the cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cupola
from cupola.bundles import Bundle
from cupola.bundles.writing import write_bundle
from cupola.config import Config
from cupola.runtime import tasks
from cupola.runtime.building import without_pretrained
from cupola.runtime.export import export
from cupola.runtime.load import execute, load_predictor
from cupola.runtime.optimize.graphs import graph_of
from ratio import SETTLING, machine, seconds

CONFIG = Path(cupola.__file__).parent / "configs/detr/detr_r50.py"
SIZE = (800, 1066)
FIRST = """
import sys, time
import numpy, torch
torch.set_num_threads(int(sys.argv[2]))
from cupola.runtime.load import load_predictor
predictor = load_predictor(sys.argv[1], optimization="auto")
predictor.run([predictor.sample(numpy.zeros((800, 1066, 3), numpy.uint8))])
print(predictor.execution.engine, flush=True)
"""


def bundle(folder: Path) -> Bundle:
    """DETR-R50 of the published config with random weights."""
    model = without_pretrained(Config.load(CONFIG).to_dict()["model"])
    state = cupola.build(model).state_dict()
    config = {
        "name": "detr-r50",
        "version": "1",
        "task": "detection",
        "model": model,
        "labels": [str(i) for i in range(80)],
        "preprocess": {"resize": {"exact": list(SIZE)}},
    }
    return write_bundle(folder, config, state, "# DETR-R50 with random weights\n", torch.float32)


def peers(graph: Path, threads: int) -> dict[str, Callable[[Any], Any]]:
    """The network by each library, opened as its documentation says."""
    import onnxruntime
    import openvino

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    return {
        "onnxruntime": lambda x: session.run(None, {"pixels": x}),
        "openvino": lambda x: compiled([x]),
    }


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for number in range(rounds):
        for name in calls if number % 2 else reversed(calls):
            time.sleep(SETTLING)
            times[name].append(seconds(calls[name]))
    return {name: statistics.median(each) for name, each in times.items()}


def first_answer(folder: Path, threads: int) -> tuple[float, str]:
    """Seconds from the start of a process to its first answer, and its engine."""
    command = [sys.executable, "-W", "ignore", "-c", FIRST, str(folder), str(threads)]
    # As after an installation, which compiles the modules once.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        engine = process.stdout.readline().strip()
        taken = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{command}: exit code {process.returncode}")
    return taken, engine


def compare_auto(rounds: int, threads: int, build: float) -> None:
    """Prints the table of auto, the ratios, and the cold start. `build`: seconds for graphs."""
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CUPOLA_CACHE"] = str(folder / "cache")
        made = bundle(folder / "detr-r50")
        plain, predictor = load_predictor(made), load_predictor(made)
        execute(predictor, made, "auto", seconds=build, report=print)
        graph = folder / "detr.onnx"
        program = tasks.find("detection").program(plain, SIZE).without("padding_mask")
        export(program.fixed(), graph)
        pixels = torch.randn(1, 3, *SIZE)
        array = np.ascontiguousarray(pixels.numpy())
        calls: dict[str, Callable[[], object]] = {
            peer: lambda call=call: call(array) for peer, call in peers(graph, threads).items()
        }
        with torch.inference_mode():
            auto = predictor.model  # called as its `predict` does, or its graph would not fit
            found = in_turns({"auto": lambda: auto(pixels, None, True), **calls}, rounds)
        graph_used = graph_of(auto)
        if graph_used is not None and graph_used.passed_on:
            raise RuntimeError("the call did not fit the graph that auto chose")
        best = min(found["onnxruntime"], found["openvino"])
        times = ", ".join(f"{peer} {median:.3f} s" for peer, median in found.items())
        print(f"detr-r50 {SIZE[0]}x{SIZE[1]}: auto is {predictor.execution.engine}; {times}")
        print(f"auto / better of the two: {found['auto'] / best:.3f}")
        first_answer(made.path, threads)  # reads the files from the disk
        cold, engine = min(first_answer(made.path, threads) for _ in range(3))
        print(f"process start to first answer, from the cache: {cold:.2f} s ({engine})")
