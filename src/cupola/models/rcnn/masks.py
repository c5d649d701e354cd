"""Masks in pixels of the input: of the ground truth, and from regions to the original image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from cupola.models.rcnn.pasting import paste_masks
from cupola.structures import Detections
from cupola.structures.masks import pad_masks

Size = tuple[int, int]
Factors = Sequence[Sequence[float] | None]


def with_padded_masks(
    targets: Sequence[Mapping[str, Tensor]], pixels: Tensor
) -> list[Mapping[str, Tensor]]:
    """Targets whose masks [N, h, w] are as large as the batch's pixels [B, C, H, W].

    Regions that leave an image which is smaller than the batch see that there is no object.
    """
    size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    return [
        {**each, "masks": pad_masks(each["masks"], size)} if "masks" in each else each
        for each in targets
    ]


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
