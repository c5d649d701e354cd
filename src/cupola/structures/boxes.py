"""Boxes as tensors [..., 4]: conversions, overlaps, scaling. All functions are pure.

xyxy is (left, top, right, bottom); cxcywh is (center x, center y, width, height). Units are the
caller's: pixels, or fractions of the image.
"""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] center form -> corner form."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((center - 0.5 * size, center + 0.5 * size), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] corner form -> center form."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes: [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def scale(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """Multiplies x by width and y by height, `size` = (height, width)."""
    height, width = size
    return boxes * boxes.new_tensor([width, height, width, height])


def _overlap(a: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = (area(a) + area(b) - intersection).clamp(min=eps)
    return intersection / union, union


def iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union of xyxy boxes, element by element with broadcasting."""
    return _overlap(a, b, eps)[0]


def giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalized IoU (arXiv 1902.09630) of xyxy boxes, element by element with broadcasting.

    In (-1, 1]; negative for distant boxes, where it still has a gradient.
    """
    overlap, union = _overlap(a, b, eps)
    sides = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    enclosing = (sides[..., 0] * sides[..., 1]).clamp(min=eps)
    return overlap - (enclosing - union) / enclosing


def pairwise_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """IoU of every box of a [N, 4] with every box of b [M, 4], xyxy -> [N, M]."""
    left, top, right, bottom = (
        (mine[:, None], theirs) for mine, theirs in zip(a.unbind(-1), b.unbind(-1), strict=True)
    )
    width = (torch.minimum(*right) - torch.maximum(*left)).clamp(min=0)
    height = (torch.minimum(*bottom) - torch.maximum(*top)).clamp(min=0)
    intersection = width * height
    return intersection / (area(a)[:, None] + area(b) - intersection).clamp(min=eps)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of every box of a [N, 4] with every box of b [M, 4] -> [N, M]."""
    return giou(a[:, None], b[None])
