"""Which cells of the grids are for which object.

Letters: N objects of an image, g cells of a grid's side, P pairs of a positive cell and an object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.dense.targets import mask_centers
from cupola.structures.masks import pad_masks


@dataclass(frozen=True)
class GridTargets:
    """One level of one image: labels [g, g]; the cells and objects of pairs, each [P].

    A cell that several objects claim is in several pairs; its label is that of the last one.
    """

    labels: Tensor
    cells: Tensor
    objects: Tensor

    def last(self) -> tuple[Tensor, Tensor]:
        """Every positive cell once, with the last object that claims it, both [P]."""
        owner = torch.full_like(self.labels.flatten(), -1)
        for cell, number in zip(self.cells.tolist(), self.objects.tolist(), strict=True):
            owner[cell] = number
        cells = (owner >= 0).nonzero()[:, 0]
        return cells, owner[cells]


def grid_targets(
    target: Mapping[str, Tensor],
    size: tuple[int, int],
    grids: Sequence[int],
    ranges: Sequence[Sequence[float]],
    scale: float,
    num_classes: int,
) -> list[GridTargets]:
    """Targets of one image in a batch of `size` (height, width), for every level.

    A level is for objects whose box has the root of its area in its range; positive are the cells
    around the mask's center of mass that `scale` times the box covers, at most three by three.
    Source: SOLO, section 3.3.1; mmdet/models/dense_heads/solo_head.py.
    """
    if "masks" not in target:
        raise ValueError("targets need masks to train this model: load annotations with_mask")
    boxes, masks = target["boxes"].float(), target["masks"]
    sides = boxes[:, 2:] - boxes[:, :2]  # [N, 2]
    magnitude = sides.prod(1).sqrt()
    whole = boxes.new_tensor([size[1], size[0]])
    centers = mask_centers(masks).to(boxes) / whole if len(masks) else boxes[:, :2]  # 0..1
    reach = sides * (0.5 * scale) / whole
    there = masks.flatten(1).any(1) if len(masks) else masks.new_zeros(0)
    found = []
    for grid, (low, high) in zip(grids, ranges, strict=True):

        def cell(places: Tensor, grid: int = grid) -> Tensor:
            return torch.div(places, 1 / grid, rounding_mode="trunc").long()

        middle = cell(centers)
        first = torch.maximum(cell(centers - reach).clamp(min=0), middle - 1)
        last = torch.minimum(cell(centers + reach).clamp(max=grid - 1), middle + 1)
        usable = (there & (magnitude >= low) & (magnitude <= high)).nonzero()[:, 0].tolist()
        labels = torch.full((grid, grid), num_classes, device=boxes.device)
        cells, objects = [], []
        for number in usable:
            (left, top), (right, bottom) = first[number].tolist(), last[number].tolist()
            labels[top : bottom + 1, left : right + 1] = target["labels"][number]
            here = [y * grid + x for y in range(top, bottom + 1) for x in range(left, right + 1)]
            cells += here
            objects += [number] * len(here)
        index = [
            torch.tensor(each, dtype=torch.int64, device=boxes.device) for each in (cells, objects)
        ]
        found.append(GridTargets(labels, *index))
    return found


def smaller_masks(masks: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Masks [N, h, w] of an image in a batch of `size` -> [N, H / stride, W / stride], bool."""
    padded = pad_masks(masks, size).float()
    small = (round(size[0] / stride), round(size[1] / stride))
    if not len(padded):
        return masks.new_zeros(0, *small, dtype=torch.bool)
    return F.interpolate(padded[None], size=small, mode="bilinear")[0] >= 0.5
