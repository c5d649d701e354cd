"""Logits and boxes of a decoder layer -> detections in pixels."""

from collections.abc import Sequence

from torch import Tensor

from cupola.models.set_prediction import best_pairs, class_scores
from cupola.structures import Detections
from cupola.structures.boxes import cxcywh_to_xyxy, scale


def postprocess(
    logits: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    scale_factor: Sequence[float] | None = None,
    max_per_img: int | None = 100,
    clamp: bool = True,
    use_sigmoid: bool = False,
) -> Detections:
    """logits [Q, C+1], boxes [Q, 4] of one image -> Detections.

    Softmax without the background column, the best `max_per_img`, boxes scaled by `size`
    (height, width) of the image as the model saw it, clamped to it, and divided by
    `scale_factor` (w, h). With max_per_img None the queries keep their order, and with clamp False
    boxes may leave the image: the rules of facebookresearch/detr's PostProcess. With `use_sigmoid`
    logits [Q, C] have no background, and the best (query, class) pairs are taken.
    """
    if use_sigmoid:
        count = len(logits) if max_per_img is None else max_per_img
        scores, labels, queries = best_pairs(logits, count)
        boxes = boxes[queries]
    else:
        scores, labels = class_scores(logits, use_sigmoid=False).max(-1)  # [Q]
        if max_per_img is not None:
            scores, order = scores.topk(min(max_per_img, len(scores)))
            labels, boxes = labels[order], boxes[order]
    corners = scale(cxcywh_to_xyxy(boxes), size)
    if clamp:
        height, width = size
        corners[:, 0::2] = corners[:, 0::2].clamp(0, width)
        corners[:, 1::2] = corners[:, 1::2].clamp(0, height)
    if scale_factor is not None:
        corners = corners / corners.new_tensor([*scale_factor[:2], *scale_factor[:2]])
    return Detections(corners, scores, labels)
