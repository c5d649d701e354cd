"""The masks of the last decoder layer, for `cupola explain`."""

from typing import Any

import torch
from torch import Tensor

from cupola.structures.masks import mask_boxes


@torch.no_grad()
def inspect_masks(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """pixels [1, 3, H, W], normalized -> scores [Q, C], boxes [Q, 4] and attention [Q, h, w].

    Scores are in 0..1 and leave the background out; boxes are cxcywh in 0..1 around the masks;
    attention is the probability of each mask at stride 4, which Mask2Former's queries attend
    within, divided by its sum.
    """
    training = model.training
    model.eval()
    try:
        output = model(pixels, last_only=True)
    finally:
        model.train(training)
    scores = output.logits[-1, 0].softmax(-1)[:, :-1]
    masks = output.masks[-1, 0]  # [Q, h, w]
    left, top, right, bottom = mask_boxes(masks > 0).unbind(-1)
    height, width = masks.shape[-2:]
    center = (left + right) / (2 * width), (top + bottom) / (2 * height)
    boxes = torch.stack((*center, (right - left) / width, (bottom - top) / height), -1)
    probabilities = masks.sigmoid()
    total = probabilities.sum((-2, -1), keepdim=True).clamp_min(1e-12)
    return {"scores": scores, "boxes": boxes, "attention": probabilities / total}
