"""DETR-R50 at 800 x 1066, batch 1, float32, CPU: Cupola against transformers, same weights.

Prints the time ratio (below 1 = ours is faster) and the largest difference of the outputs.
    python bench/detr.py [--rounds 5] [--threads 2]
"""

import argparse
import copy
import tempfile
import warnings

import torch
import transformers

import cupola
from cupola.config import Config
from cupola.runtime.optimize.folding import fold_batch_norms
from ratio import alternate

warnings.filterwarnings("ignore")


def peer() -> transformers.DetrForObjectDetection:
    """transformers' DETR-R50 with random weights."""
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_labels=91,
    )
    return transformers.DetrForObjectDetection(config).eval()


def ours(reference: transformers.DetrForObjectDetection) -> cupola.nn.Module:
    """Cupola's DETR with the peer's weights, loaded from the folder that the peer writes."""
    name = "src/cupola/configs/detr/detr_r50_facebook.py"
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        model = cupola.build(Config.load(name).to_dict()["model"], weights=folder)
        return copy.deepcopy(model.eval())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reference = peer()
    model = ours(reference)
    engine = fold_batch_norms(model)
    pixels = torch.randn(1, 3, 800, 1066)
    mask = torch.ones(1, 800, 1066, dtype=torch.long)
    with torch.inference_mode():
        expected = reference(pixel_values=pixels, pixel_mask=mask)
        for name, run in (("eager", model), ("prepared", engine)):
            found = run(pixels)
            logits = float((found.logits[-1] - expected.logits).abs().max())
            boxes = float((found.boxes[-1] - expected.pred_boxes).abs().max())
            mine, theirs = alternate(
                lambda run=run: run(pixels),
                lambda: reference(pixel_values=pixels, pixel_mask=mask),
                arguments.rounds,
            )
            print(
                f"detr-r50 800x1066 {name:9s} ours {mine:.3f} s, transformers {theirs:.3f} s, "
                f"ratio {mine / theirs:.3f}, largest difference: logits {logits:.1e}, "
                f"boxes {boxes:.1e}"
            )


if __name__ == "__main__":
    main()
