"""Boxes as distances of an anchor's center to the sides, in units of the anchor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola.models.boxes import clip
from cupola.models.boxes.distances import boxes_around, centers, distances
from cupola.registry import TASK_UTILS

Size = tuple[int, int]


@TASK_UTILS.register_module()
class TBLRBBoxCoder:
    """Distances to the top, bottom, left and right side, over the anchor's side and `normalizer`.

    `normalizer` is a number, or one for each side. Decoded boxes are clipped unless `clip_border`
    is False. Source: mmdet/models/task_modules/coders/tblr_bbox_coder.py.
    """

    size = 4

    def __init__(
        self,
        normalizer: float | Sequence[float] = 4.0,
        clip_border: bool = True,
        use_box_type: bool = False,
    ) -> None:
        each = [normalizer] * 4 if isinstance(normalizer, (int, float)) else list(normalizer)
        if len(each) != 4 or not all(each):
            raise ValueError(f"normalizer is a number, or four, not 0; got {normalizer!r}")
        self.normalizer, self.clip_border = each, clip_border

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Anchors and boxes [..., 4], xyxy -> normalized distances [..., 4]."""
        left, top, right, bottom = distances(centers(anchors), boxes).unbind(-1)
        return torch.stack((top, bottom, left, right), -1) / self._units(anchors)

    def decode(self, anchors: Tensor, rows: Tensor, size: Size | None = None) -> Tensor:
        """Anchors and normalized distances [..., 4] -> boxes [..., 4] in `size` (height, width)."""
        top, bottom, left, right = (rows * self._units(anchors)).unbind(-1)
        boxes = boxes_around(centers(anchors), torch.stack((left, top, right, bottom), -1))
        return clip(boxes, size) if size is not None and self.clip_border else boxes

    def _units(self, anchors: Tensor) -> Tensor:
        width, height = (anchors[..., 2:] - anchors[..., :2]).unbind(-1)
        sides = torch.stack((height, height, width, width), -1)
        return sides * sides.new_tensor(self.normalizer)
