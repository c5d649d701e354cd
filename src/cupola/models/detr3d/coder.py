"""NMSFreeCoder: decodes the best (query, class) pairs of a sample to boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola.models.set_prediction import best_pairs
from cupola.registry import TASK_UTILS
from cupola.structures import Detections3D, boxes3d

DEFAULT_CODE = boxes3d.BoxCode()


@TASK_UTILS.register_module()
class NMSFreeCoder:
    """Top `max_num` sigmoid scores of queries x classes, filtered by box center; no NMS.

    A query may appear several times with different classes (source: nms_free_coder.py).
    """

    def __init__(
        self,
        pc_range: Sequence[float],
        voxel_size: Sequence[float] | None = None,
        post_center_range: Sequence[float] | None = None,
        max_num: int = 100,
        score_threshold: float | None = None,
        num_classes: int = 10,
    ) -> None:
        self.pc_range = tuple(pc_range)
        self.voxel_size = voxel_size
        self.post_center_range = None if post_center_range is None else tuple(post_center_range)
        self.max_num = max_num
        self.score_threshold = score_threshold
        self.num_classes = num_classes

    def decode(
        self, logits: Tensor, codes: Tensor, box_code: boxes3d.BoxCode = DEFAULT_CODE
    ) -> Detections3D:
        """One sample: logits [Q, C], codes [Q, 10] in meters -> detections, best first."""
        scores, labels, queries = best_pairs(logits, self.max_num)
        boxes = box_code.decode(codes[queries])  # z at the center
        keep = torch.ones_like(scores, dtype=torch.bool)
        if self.post_center_range is not None:
            keep &= boxes3d.in_range(boxes[:, :3], self.post_center_range)
        if self.score_threshold is not None:
            keep &= scores > self.score_threshold
        boxes = boxes3d.center_to_bottom(boxes[keep])
        return Detections3D(boxes, scores[keep], labels[keep], queries=queries[keep])
