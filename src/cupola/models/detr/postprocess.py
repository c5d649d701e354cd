"""From a decoder layer's logits and boxes to detections in pixels."""

from collections.abc import Sequence

from torch import Tensor

from cupola.structures import Detections
from cupola.structures.boxes import cxcywh_to_xyxy, scale


def postprocess(
    logits: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    scale_factor: Sequence[float] | None = None,
    max_per_img: int | None = 100,
    clamp: bool = True,
) -> Detections:
    """logits [Q, C+1], boxes [Q, 4] of one image -> Detections.

    Softmax without the background column, the best `max_per_img`, boxes scaled by `size`
    (height, width) of the image as the model saw it, clamped to it, and divided by
    `scale_factor` (w, h). With max_per_img None every query keeps its place, and with clamp False
    boxes may leave the image: the rules of facebookresearch/detr's PostProcess.
    """
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # [Q]
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
