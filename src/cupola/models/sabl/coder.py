"""BucketingBBoxCoder: which of a few places a side of a box is nearest to, and how far from it.

Letters: N boxes, K places (buckets) of a side.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cupola.registry import TASK_UTILS
from cupola.registry.budget import reserve


class Buckets(NamedTuple):
    """Each [N, 4 * K]: left, right, top, bottom. offsets are in widths of a bucket.

    nearest is 1 for the nearest bucket, else 0; the weights say which numbers train.
    """

    offsets: Tensor
    offset_weights: Tensor
    nearest: Tensor
    nearest_weights: Tensor


@TASK_UTILS.register_module()
class BucketingBBoxCoder:
    """A box, `scale_factor` times as large, has `num_buckets` places from side to side.

    Half of them are for either side. The `offset_topk` nearest ones have an offset, from the second
    on only below `offset_upperbound`. With `cls_ignore_neighbor` those next to the nearest one are
    no negatives. Source: paper, section 3.2; mmdet's bucketing_bbox_coder.py.
    """

    def __init__(
        self,
        num_buckets: int,
        scale_factor: float,
        offset_topk: int = 2,
        offset_upperbound: float = 1.0,
        cls_ignore_neighbor: bool = True,
        clip_border: bool = True,
        use_box_type: bool = False,
    ) -> None:
        reserve(num_buckets)
        if num_buckets < 2 or not 0 < offset_topk <= math.ceil(num_buckets / 2):
            raise ValueError("num_buckets is at least 2, offset_topk 1 to half of it")
        self.count, self.scale = num_buckets, scale_factor
        self.side_num = math.ceil(num_buckets / 2)
        self.topk, self.limit = offset_topk, offset_upperbound
        self.ignore_neighbor, self.clip_border = cls_ignore_neighbor, clip_border

    def places(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [..., 4] -> the places of buckets [..., 4, K], and their widths [..., 4, 1]."""
        low, high = boxes[..., :2], boxes[..., 2:]
        center, half = (low + high) / 2, (high - low) / 2 * self.scale
        width = 2 * half[..., None] / self.count  # [..., 2, 1]
        step = (torch.arange(self.side_num, device=boxes.device) + 0.5) * width
        near, far = (center - half)[..., None] + step, (center + half)[..., None] - step
        places = torch.stack((near, far), -2).flatten(-3, -2)  # left, right, top, bottom
        return places, width.repeat_interleave(2, -2)

    def encode(self, boxes: Tensor, targets: Tensor) -> Buckets:
        """Boxes and targets [N, 4], xyxy -> Buckets."""
        places, width = self.places(boxes.float())
        sides = targets.float()[:, [0, 2, 1, 3], None]
        offsets = (places - sides) / width
        distance = offsets.abs()
        order = distance.topk(self.topk, largest=False)
        trains = order.values < self.limit
        trains[..., 0] = True
        weights = torch.zeros_like(offsets).scatter(-1, order.indices, trains.to(offsets))
        nearest = torch.zeros_like(offsets).scatter(-1, order.indices[..., :1], 1.0)
        nearest_weights = torch.ones_like(offsets)
        if self.ignore_neighbor:
            nearest_weights = ((distance >= 1) | (nearest > 0)).to(offsets)
        return Buckets(*(each.flatten(1) for each in (offsets, weights, nearest, nearest_weights)))

    def decode(
        self, boxes: Tensor, rows: Tensor, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes [..., 4] and [..., 8 * K], logits of buckets, then offsets -> boxes, confidences.

        The confidence is the mean over the sides of the score of the best bucket, and of the second
        best if it is next to it. Boxes are within `size` (height, width) minus a pixel.
        """
        parts = rows.view(*rows.shape[:-1], 2, 4, self.side_num)
        logits, offsets = parts.unbind(-3)  # [..., 4, K]
        best = logits.softmax(-1).topk(2)
        places, width = self.places(boxes)
        chosen = best.indices[..., :1]
        sides = (places - offsets * width).gather(-1, chosen)[..., 0]  # [..., 4]
        found = sides[..., [0, 2, 1, 3]]
        if self.clip_border and size is not None:
            limit = found.new_tensor([size[1], size[0]] * 2) - 1
            found = torch.minimum(found.clamp(min=0), limit)
        neighbor = (best.indices[..., 0] - best.indices[..., 1]).abs() == 1
        confidence = best.values[..., 0] + best.values[..., 1] * neighbor
        return found, confidence.mean(-1)
