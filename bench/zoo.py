"""Published detectors of MMDetection on the CPU, against onnxruntime running our own export.

Faster and Mask R-CNN R50 at 800 x 1333 (padded to 1344) and RTMDet-s at 640 x 640, batch 1,
float32, random weights; the graph ends before the last thresholds and NMS. Prints for the plain and
for the prepared model (folded batch norms) the time relative to onnxruntime's and to the plain
model's, and the largest difference of the scores. Needs cupola[export]. With `--auto`: the engine
that `auto` chooses, which a user gets, and the time of its network relative to that of the engine
onnxruntime.

    python bench/zoo.py [--rounds 7] [--threads 2] [--model faster_rcnn mask_rcnn rtmdet_s]
    python bench/zoo.py --auto [--build 200] [--choices 10] [--model rtmdet_s]
"""

import argparse
import json
import lzma
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import cupola
from cupola.runtime.building import without_pretrained
from cupola.runtime.export import Program, export
from cupola.runtime.optimize.calibration import calibrate
from cupola.runtime.optimize.fusing import fold
from cupola.runtime.optimize.machine import folder_of, key_of, model_digest
from cupola.runtime.optimize.memory import keep_freed_memory
from cupola.runtime.optimize.selection import optimize
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from ratio import alternate, machine

PUBLISHED = Path(__file__).parent.parent / "tests/goldens/zoo/published_models.tsv.xz"
MODELS = {
    "faster_rcnn": ("3.3.0/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", 800, 1344),
    "mask_rcnn": ("3.3.0/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", 800, 1344),
    "rtmdet_s": ("3.3.0/rtmdet/rtmdet_s_8xb32-300e_coco.py", 640, 640),
}


def built(name: str) -> Any:
    """The model of a published config with random weights."""
    with lzma.open(PUBLISHED, "rt") as file:
        models = {config: model for config, model, _ in (line.split("\t") for line in file)}
    config = json.loads(models[MODELS[name][0]])
    torch.manual_seed(0)
    return cupola.build(without_pretrained(config)).eval()


def graph(model: Any, name: str) -> Program:
    """What the export of the model computes."""
    _, height, width = MODELS[name]
    config = {"preprocess": {"resize": {"exact": [height, width]}}}
    return program(make(name, "1", model, config, ()), None)


def onnx_session(model: Any, name: str, threads: int) -> onnxruntime.InferenceSession:
    """onnxruntime with the model's export, on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(graph(model, name), path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Case:
    """One detector on one image: the plain model, its folded copy, and onnxruntime."""

    def __init__(self, name: str, threads: int) -> None:
        model = built(name)
        session = onnx_session(model, name, threads)
        _, self.height, self.width = MODELS[name]
        pixels = torch.randn(1, 3, self.height, self.width)
        mask = torch.zeros(1, self.height, self.width, dtype=torch.bool)
        if self.width == 1344:
            mask[..., 1333:] = True
            pixels[..., 1333:] = 0.0
        given = {"pixels": pixels.numpy(), "padding_mask": mask.numpy()}
        fed = {each.name: given[each.name] for each in session.get_inputs()}
        plain, folded = (graph(m, name).module for m in (model, fold(model, pack=True)))
        self.plain = lambda: plain(pixels, mask)
        self.folded = lambda: folded(pixels, mask)
        self.peer = lambda: session.run(None, fed)


def compare(name: str, rounds: int, threads: int) -> None:
    case = Case(name, threads)
    expected = torch.from_numpy(case.peer()[0])
    for kind, engine in (("plain", case.plain), ("prepared", case.folded)):
        found = engine()[0].sort(1).values  # equal scores may change places
        difference = float((found - expected.sort(1).values).abs().max())
        ours, theirs = alternate(engine, case.peer, rounds)
        slow, _ = alternate(case.plain, lambda: None, 3)
        print(
            f"{name} {case.height}x{case.width} {kind:8s} ours {ours:.3f} s, onnxruntime "
            f"{theirs:.3f} s, ratio {ours / theirs:.3f}; to plain {ours / slow:.3f}; difference of "
            f"scores {difference:.1e}",
            flush=True,
        )


def machine_folder(predictor: Any) -> Path | None:
    """Where the graphs of a predictor are kept."""
    digest = model_digest(predictor.model, predictor.config)
    return folder_of(key_of(digest, predictor.device))


def compare_auto(name: str, rounds: int, build: float, choices: int) -> None:
    """Prints what auto chooses when graphs may be built for so many seconds, and its time.

    With more than one of `choices`, the measurement is repeated, with the graphs that are there.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUPOLA_CACHE"] = str(Path(folder) / "cache")
        _, height, width = MODELS[name]
        config = {"preprocess": {"resize": {"exact": [height, width]}}}
        predictors = [make(name, "1", built(name), config, ()) for _ in range(2)]
        samples = [predictors[0].sample(np.zeros((height, width, 3), np.uint8))]
        auto, peer = predictors
        found = optimize(auto, "auto", samples, seconds=build, report=print)
        folder = machine_folder(peer)
        for _ in range(choices - 1):
            outcome = calibrate(peer, samples, folder, build)
            times = ", ".join(f"{r.engine} {r.seconds:.3f}" for r in outcome.rows if r.seconds)
            print(f"{name}: auto is {outcome.engine}; {times}", flush=True)
        optimize(peer, "onnxruntime", samples)
        calls = [lambda p=each: p.run(samples) for each in predictors]
        ours, theirs = alternate(*calls, rounds)
        print(
            f"{name} {height}x{width}: auto is {found.engine}; {ours:.3f} s, the engine "
            f"onnxruntime {theirs:.3f} s, ratio {ours / theirs:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--auto", action="store_true", help="measure the engine that auto chooses")
    parser.add_argument("--build", type=float, default=200, help="seconds for the graphs of auto")
    parser.add_argument("--choices", type=int, default=1, help="how often auto chooses")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    keep_freed_memory()  # as the server's runners do
    torch.set_num_threads(arguments.threads)
    print(machine(), "torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
    with torch.inference_mode():
        for name in arguments.model:
            if arguments.auto:
                compare_auto(name, arguments.rounds, arguments.build, arguments.choices)
            else:
                compare(name, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
