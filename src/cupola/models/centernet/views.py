"""CenterNet on several views of an image: each is averaged with its mirror image.

Source: `aug_test` of mmdet/models/detectors/centernet.py of MMDetection 2.28.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense import Candidates, suppress
from cupola.models.rcnn.views import AXES, Size, View
from cupola.structures import Detections


def in_pairs(flips: Sequence[str | None]) -> bool:
    """Whether each view is followed by a flipped one."""
    return len(flips) % 2 == 0 and not any(flips[::2]) and all(flips[1::2])


@torch.no_grad()
def predict_pairs(model: Any, views: Sequence[View], original: Size) -> Detections:
    """Detections of views that alternate with flipped ones, in pixels of the image.

    Heatmaps and sizes of both are averaged; offsets are those of the first. What is found in
    several pairs stands side by side, unless test_cfg names an NMS.
    """
    found = [_of_pair(model, *pair) for pair in zip(views[::2], views[1::2], strict=True)]
    boxes, scores, labels = (
        torch.cat([getattr(each, name) for each in found]) for name in ("boxes", "scores", "labels")
    )
    cfg = model.bbox_head.test_cfg
    if (nms := cfg.get("nms_cfg")) is None:
        scores, order = scores.sort(descending=True, stable=True)
        return Detections(boxes[order], scores, labels[order])
    settings = {"nms": nms, "max_per_img": cfg.get("max_per_img", -1)}
    return suppress(Candidates(boxes, scores, labels), settings)


def _of_pair(model: Any, view: View, flipped: View) -> Detections:
    output, mirrored = model(view.pixels), model(flipped.pixels)
    axes = AXES[flipped.flip]

    def mean(maps: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple((a + b.flip(axes)) / 2 for a, b in zip(maps, others, strict=True))

    averaged = output._replace(
        heatmaps=mean(output.heatmaps, mirrored.heatmaps), sizes=mean(output.sizes, mirrored.sizes)
    )
    (found,) = model.bbox_head.predict(averaged, [view.size], [None])
    return replace(found, boxes=view.to_image(found.boxes))
