"""A published model with random weights, as a bundle that answers on small images."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cupola.bundles import write_bundle
from cupola.registry import build
from cupola.runtime.load import load_predictor
from cupola.runtime.predictors.detection import DetectionPredictor
from cupola.runtime.published import bundle_config
from published_models import PUBLISHED

LIMITS = {"max_per_img": 12, "nms_pre": 200}  # so that random scores stay cheap
THRESHOLDS = ("score_thr", "filter_thr", "object_mask_thr")
RESIZE = {"type": "Resize", "scale": (160, 96), "keep_ratio": True}


def small_predictor(config: str, folder: Path) -> DetectionPredictor:
    """The predictor of a bundle that is written to `folder`; images are resized to 160 x 96."""
    model = copy.deepcopy(PUBLISHED[config])
    segments = "SOLO" in model["type"]  # computes the mask of every cell above the threshold
    for settings in _settings(model.get("test_cfg")):
        if "score_thr" in settings and "nms" in settings:
            settings.setdefault("max_per_img", 100)  # YOLOX has no limit
        settings |= {key: value for key, value in LIMITS.items() if settings.get(key, 0) > value}
        settings |= {key: 0.7 if segments else 0.0 for key in THRESHOLDS if key in settings}
    pipeline = [{"type": "LoadImageFromFile"}, RESIZE]
    about = bundle_config({"model": model, "test_pipeline": pipeline}, "small")
    made = build(about["model"]).eval()
    fill(made)
    write_bundle(folder, about, made.state_dict(), "# small\n", torch.float32)
    predictor = load_predictor(folder)
    assert isinstance(predictor, DetectionPredictor)
    return predictor


def fill(model: Any) -> None:
    """Weights that keep the scale of features, with norms that are near the identity."""
    random = torch.Generator().manual_seed(0)
    proposes = getattr(model, "rpn_head", None) is not None
    state = model.state_dict()
    for key, value in state.items():
        if not value.is_floating_point() or key.endswith("project"):
            continue
        drawn = torch.randn(value.shape, generator=random)
        last = key.rpartition(".")[2]
        if "fc_mask_iou" in key:  # the IoU of a mask, which nothing else bounds
            value.fill_(0.5 if last == "bias" else 0.0)
        elif last == "weight_gamma":  # of standardized filters, whose own scale has no effect
            value.fill_(1.3 / state[key.removesuffix("_gamma")][0].numel() ** 0.5)
        elif last == "weight_beta":
            value.zero_()
        elif last == "running_var":
            value.copy_(1 + 0.1 * drawn.abs())
        elif value.dim() <= 1:
            # scores of proposals that are 1 have no order: blocks add little to what they get
            scale = 0.2 if proposes and ".bn3." in key else 1.0
            value.copy_(scale * (1 + 0.1 * drawn) if last == "weight" else 0.05 * drawn)
        else:
            gain = 1.3 if value.dim() == 4 else 1.0
            if any(part.endswith("reg") for part in key.split(".")):  # sides are its exponential
                gain = 0.02
            elif any(part in key for part in (".switch.", "_context.", ".offset_")):
                gain = 0.1  # of SAC: a switch between 0 and 1, and what is added to features
            elif ".deconv2." in key:  # Grid R-CNN takes the best cell: no two may be 1
                gain = 0.1
            value.copy_(gain * drawn / max(1, value[0].numel()) ** 0.5)


def _settings(part: Any) -> Iterator[dict[str, Any]]:
    """Every dict of a test_cfg."""
    if isinstance(part, dict):
        yield part
        for each in part.values():
            yield from _settings(each)
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _settings(each)
