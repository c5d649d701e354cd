"""From boxes and masks of regions in the input to those of the original image."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from cupola.models.rcnn.pasting import paste_masks
from cupola.structures import Detections

Size = tuple[int, int]
Factors = Sequence[Sequence[float] | None]


def with_masks(
    found: Sequence[Detections],
    masks: Sequence[Tensor],
    factors: Factors,
    originals: Sequence[Size],
    threshold: float,
) -> list[Detections]:
    """Detections in pixels of the input -> with masks, in pixels of the original images.

    masks: the probabilities in the regions [N, m, n] of every image. originals: (height, width).
    """
    answers = []
    for each, mask, factor, size in zip(found, masks, factors, originals, strict=True):
        boxes = each.boxes
        if factor is not None:
            boxes = boxes / boxes.new_tensor([*factor[:2], *factor[:2]])
        pasted = paste_masks(mask, boxes, size, threshold)
        answers.append(replace(each, boxes=boxes, masks=pasted))
    return answers
