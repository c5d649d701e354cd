"""Boxes as deltas to anchors (R-CNN, arXiv 1311.2524): shifts of the center, logs of the sides.

Source: mmdet/models/task_modules/coders.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cupola.registry import TASK_UTILS

Size = tuple[int, int]
Four = Sequence[float]
ZEROS: Four = (0.0, 0.0, 0.0, 0.0)
ONES: Four = (1.0, 1.0, 1.0, 1.0)
MAX_LOG = abs(math.log(16 / 1000))  # sides grow or shrink to at most this, as in Detectron


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Deltas minus `target_means` over `target_stds`, and back.

    Decoded boxes are clipped to the image unless `clip_border` is False. `add_ctr_clamp` limits
    shifts to `ctr_clamp` pixels. With `legacy` the last pixel belongs to a box, as in
    MMDetection 1.x.
    """

    size = 4
    legacy = 0.0
    max_log = MAX_LOG

    def __init__(
        self,
        target_means: Four = ZEROS,
        target_stds: Four = ONES,
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: float = 32,
        use_box_type: bool = False,
    ) -> None:
        self.means, self.stds = list(target_means), list(target_stds)
        self.clip_border = clip_border
        self.ctr_clamp = ctr_clamp if add_ctr_clamp else None

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Anchors and boxes [..., 4], xyxy -> deltas [..., 4]."""
        center, side = _center_and_sides(anchors, self.legacy)
        target, target_side = _center_and_sides(boxes, self.legacy)
        deltas = torch.cat(((target - center) / side, (target_side / side).log()), -1)
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def decode(self, anchors: Tensor, deltas: Tensor, size: Size | None = None) -> Tensor:
        """Anchors [..., 4], deltas [..., 4] -> boxes [..., 4], within `size` (height, width)."""
        deltas = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        center, side = _center_and_sides(anchors, self.legacy)
        shift, log = side * deltas[..., :2], deltas[..., 2:]
        if self.ctr_clamp is not None:
            shift = shift.clamp(-self.ctr_clamp, self.ctr_clamp)
            log = log.clamp(max=self.max_log)
        else:
            log = log.clamp(-self.max_log, self.max_log)
        center, half = center + shift, side * log.exp() * 0.5
        boxes = torch.cat((center - half, center + half), -1)
        return clip(boxes, size, self.legacy) if size is not None and self.clip_border else boxes


@TASK_UTILS.register_module()
class LegacyDeltaXYWHBBoxCoder(DeltaXYWHBBoxCoder):
    """Deltas of MMDetection 1.x: the last pixel belongs to a box."""

    legacy = 1.0


def clip(boxes: Tensor, size: Size, legacy: float = 0.0) -> Tensor:
    """Boxes [..., 4] within an image of `size` (height, width)."""
    x = boxes[..., 0::2].clamp(0.0, size[1] - legacy)
    y = boxes[..., 1::2].clamp(0.0, size[0] - legacy)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)


def _center_and_sides(boxes: Tensor, legacy: float) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) * 0.5, high - low + legacy
