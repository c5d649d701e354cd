"""DETR-R50, Deformable DETR and DINO at 800 x 1066, batch 1, float32, CPU, against transformers.

Prints the time ratio (below 1 = ours is faster), the largest difference of the outputs, and the
ratio of peak memory, each above the level before the call. DETR and Deformable DETR (refinement,
two stages) have the peer's weights. transformers has no DINO: its row compares DINO, whose 900
queries and FFNs of 2048 channels cost more, with that Deformable DETR.
    python bench/detr.py [--rounds 5] [--threads 2] [--model detr|deformable|dino]
    python bench/detr.py --auto [--build 900]   # auto, OpenVINO and onnxruntime; cold start
"""

import argparse
import copy
import gc
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import cupola
from cupola.bundles import Bundle
from cupola.config import Config
from cupola.runtime.building import without_pretrained
from cupola.runtime.optimize.folding import fold_batch_norms
from engines import compare_auto
from ratio import alternate, machine

warnings.filterwarnings("ignore")
HEIGHT, WIDTH = 800, 1066
DINO = Path(__file__).parent.parent / "src/cupola/configs/dino/dino_4scale_r50.py"


def detr() -> Any:
    """transformers' DETR-R50 with random weights."""
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
        num_labels=91,
    )
    return transformers.DetrForObjectDetection(config).eval()


def deformable_detr() -> Any:
    """transformers' Deformable DETR with refinement and two stages, with random weights."""
    stages = ["stage2", "stage3", "stage4"]
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(out_features=stages),
        num_labels=91,
        with_box_refine=True,
        two_stage=True,
    )
    return transformers.DeformableDetrForObjectDetection(config).eval()


def ours(reference: Any) -> cupola.nn.Module:
    """Cupola's model with the peer's weights, from the folder that the peer writes."""
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        model = cupola.build(Bundle.load(folder).model_config, weights=folder)
        return copy.deepcopy(model.eval())


def dino() -> cupola.nn.Module:
    """Cupola's DINO of the published config, with random weights."""
    return cupola.build(without_pretrained(Config.load(DINO).to_dict()["model"])).eval()


def peak(call: Callable[[], object]) -> float:
    """The peak of resident memory of one call above the level before it, in MB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


def times(model: Any, reference: Any, rounds: int) -> tuple[float, float]:
    """Seconds of one image, ours and the peer's."""
    pixels = torch.randn(1, 3, HEIGHT, WIDTH)
    mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.long)
    return alternate(
        lambda: model(pixels), lambda: reference(pixel_values=pixels, pixel_mask=mask), rounds
    )


def largest_differences(found: Any, expected: Any) -> tuple[float, float]:
    """Of the logits and of the boxes of the last layer, each query compared with its nearest one.

    Proposals with nearly equal scores may change places by rounding.
    """
    ours = torch.cat([found.logits[-1][0], found.boxes[-1][0]], dim=1)
    theirs = torch.cat([expected.logits[0], expected.pred_boxes[0]], dim=1)
    nearest = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    if len(nearest.unique()) != len(theirs):
        raise RuntimeError("the queries are not those of the peer")
    difference = (ours - theirs[nearest]).abs()
    return float(difference[:, :-4].max()), float(difference[:, -4:].max())


def compare(name: str, model: Any, reference: Any, rounds: int, same_weights: bool) -> None:
    """Prints one row for the model as it is and one for its prepared copy."""
    pixels = torch.randn(1, 3, HEIGHT, WIDTH)
    mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.long)

    def theirs() -> Any:
        return reference(pixel_values=pixels, pixel_mask=mask)

    expected = theirs()
    memory = peak(theirs)
    for kind, engine in (("eager", model), ("prepared", fold_batch_norms(model))):
        found = engine(pixels)
        differences = ""
        if same_weights:
            logits, boxes = largest_differences(found, expected)
            differences = f", largest difference: logits {logits:.1e}, boxes {boxes:.1e}"
        used = peak(lambda engine=engine: engine(pixels))
        mine, peers = alternate(lambda engine=engine: engine(pixels), theirs, rounds)
        print(
            f"{name} {HEIGHT}x{WIDTH} {kind:9s} ours {mine:.3f} s, transformers {peers:.3f} s, "
            f"ratio {mine / peers:.3f}; memory {used:.0f} MB, {memory:.0f} MB, ratio "
            f"{used / memory:.2f}{differences}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", choices=("detr", "deformable", "dino"))
    parser.add_argument("--auto", action="store_true", help="DETR by auto, OpenVINO, onnxruntime")
    parser.add_argument("--build", type=float, default=900, help="seconds for the graphs of auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.auto:
        compare_auto(arguments.rounds, arguments.threads, arguments.build)
        return
    print(machine())
    with torch.inference_mode():
        if arguments.model in (None, "detr"):
            reference = detr()
            compare("detr-r50", ours(reference), reference, arguments.rounds, True)
        if arguments.model in (None, "deformable", "dino"):
            reference = deformable_detr()
        if arguments.model in (None, "deformable"):
            compare("deformable-detr", ours(reference), reference, arguments.rounds, True)
        if arguments.model in (None, "dino"):
            compare("dino-4scale", dino(), reference, arguments.rounds, False)


if __name__ == "__main__":
    main()
