"""SparseBox3DDecoder: the best instances of a frame as detections.

Letters: Q instances, C classes.
"""

import torch
from torch import Tensor

from cupola.registry import TASK_UTILS
from cupola.structures import Detections3D, boxes3d

CENTERNESS = 0  # index in the quality

BOX_CODE = boxes3d.BoxCode(center_first=True)


@TASK_UTILS.register_module()
class SparseBox3DDecoder:
    """Top `num_output` by class score, ordered by class score times centerness; no NMS.

    An instance with a track has one class, its best; without tracks it may appear with several.
    `score_threshold` is one of class scores. Source: decoder.py of Sparse4D.
    """

    def __init__(
        self, num_output: int = 300, score_threshold: float | None = None, sorted: bool = True
    ) -> None:
        self.num_output = num_output
        self.score_threshold = score_threshold

    def decode(
        self, logits: Tensor, codes: Tensor, quality: Tensor | None, tracks: Tensor | None
    ) -> Detections3D:
        """One frame: logits [Q, C], codes [Q, 11], quality [Q, 2], tracks [Q] -> detections."""
        scores, classes = logits.sigmoid(), logits.shape[-1]
        if tracks is None:
            scores, index = scores.flatten().topk(min(self.num_output, scores.numel()))
            labels, queries = index % classes, index // classes
        else:
            scores, best = scores.max(-1)
            scores, queries = scores.topk(min(self.num_output, len(scores)))
            labels = best[queries]
        if self.score_threshold is not None:
            sure = scores >= self.score_threshold
            scores, labels, queries = scores[sure], labels[sure], queries[sure]
        if quality is not None:
            scores = scores * quality[queries, CENTERNESS].sigmoid()
            scores, order = torch.sort(scores, descending=True)
            labels, queries = labels[order], queries[order]
        boxes = boxes3d.center_to_bottom(BOX_CODE.decode(codes[queries]))
        own = None if tracks is None else tracks[queries]
        return Detections3D(boxes, scores, labels, queries=queries, tracks=own)
