"""Masks of regions, pasted into the image.

Letters: N masks, (h, w) of a region's mask, (H, W) of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Probabilities [N, h, w] in boxes [N, 4] (xyxy, pixels) -> masks [N, H, W], bool.

    True where the bilinear interpolation is at least `threshold`; a pixel is at its center. With a
    `threshold` below 0 the masks are the interpolation itself, uint8, 0..255.
    Source: mmdet/models/roi_heads/mask_heads/fcn_mask_head.py.
    """
    height, width = size
    kind = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=kind, device=masks.device)
    for target, mask, box in zip(pasted, masks.float(), boxes.float(), strict=True):
        left, top = (max(int(side.floor()) - 1, 0) for side in box[:2])
        right = min(int(box[2].ceil()) + 1, width)
        bottom = min(int(box[3].ceil()) + 1, height)
        if right <= left or bottom <= top:
            continue
        x = _places(left, right, box[0], box[2])
        y = _places(top, bottom, box[1], box[3])
        down, across = torch.meshgrid(y, x, indexing="ij")
        grid = torch.stack((across, down), -1)[None]
        values = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        target[top:bottom, left:right] = values >= threshold if threshold >= 0 else values * 255
    return pasted


def _places(first: int, end: int, low: Tensor, high: Tensor) -> Tensor:
    """The centers of pixels first..end-1 in a box from low to high, as -1..1; 0 if it is empty."""
    pixels = torch.arange(first, end, device=low.device, dtype=torch.float32) + 0.5
    places = (pixels - low) / (high - low) * 2 - 1
    return torch.where(places.isinf(), 0.0, places)
