"""Matrix NMS: scores of masks that better ones overlap are lowered, all at once.

Letters: N masks. Source: SOLOv2 (arXiv 2003.10152), section 3.4; mmdet/models/layers/matrix_nms.py.
"""

from typing import Any

import torch
from torch import Tensor

from cupola.structures import Detections
from cupola.structures.masks import mask_boxes

KERNELS = ("gaussian", "linear")


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    nms_pre: int = -1,
    max_per_img: int = -1,
    filter_thr: float = -1,
    kernel: str = "gaussian",
    sigma: float = 2.0,
    **other: Any,
) -> tuple[Tensor, Tensor]:
    """Masks [N, h, w] bool, labels, scores [N] -> the kept indices, and their scores, best first.

    At most `max_per_img` of the `nms_pre` best ones (all where negative) with a lowered score of at
    least `filter_thr`.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel of matrix NMS is one of {KERNELS}, got {kernel!r}")
    scores, order = scores.sort(descending=True, stable=True)
    if nms_pre > 0:
        scores, order = scores[:nms_pre], order[:nms_pre]
    if not len(order):
        return order, scores
    flat = masks[order].flatten(1).float()
    areas, overlap = flat.sum(1), flat @ flat.T  # [N], [N, N]
    iou = overlap / (areas + areas[:, None] - overlap)
    same = labels[order] == labels[order][:, None]
    iou = (iou * same).triu(diagonal=1)  # row: the better one
    most = iou.amax(0)[:, None]  # of the better one, with one that is better still
    if kernel == "gaussian":
        decay = (-sigma * iou.square()).exp() / (-sigma * most.square()).exp()
    else:
        decay = (1 - iou) / (1 - most)
    scores = scores * decay.amin(0)
    if filter_thr > 0:
        order, scores = order[scores >= filter_thr], scores[scores >= filter_thr]
    scores, again = scores.sort(descending=True, stable=True)
    limit = max_per_img if max_per_img > 0 else len(scores)
    return order[again[:limit]], scores[:limit]


def point_nms(scores: Tensor) -> Tensor:
    """Scores [B, C, g, g], 0 where the cell before in a row or a column has a higher one."""
    highest = torch.nn.functional.max_pool2d(scores, 2, stride=1, padding=1)[..., :-1, :-1]
    return scores * (highest == scores)


def detections(masks: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    """Masks [N, H, W], scores and labels [N] -> detections whose boxes are around the masks."""
    return Detections(mask_boxes(masks), scores, labels, masks=masks)
