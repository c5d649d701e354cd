"""What the cells of FCOS should predict.

Letters: B images, C classes, S cells of all levels, N objects of an image.
Source: section 3.2 of the paper, and mmdet/models/dense_heads/fcos_head.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cupola.models.boxes.distances import distances
from cupola.structures import boxes as box_ops

FAR = 1e8  # a distance that no box reaches


@dataclass(frozen=True)
class Cells:
    """points: [S, 2], (x, y) in pixels. strides: [S]. ranges: [S, 2], of the largest distance."""

    points: Tensor
    strides: Tensor
    ranges: Tensor


class FCOSTargets(NamedTuple):
    """cells; labels [B, S], C for none; sides [B, S, 4] as they are predicted; owners [B, S].

    Owners are indices of objects within an image, or -1.
    """

    cells: Cells
    labels: Tensor
    sides: Tensor
    owners: Tensor


def cells_of(
    points: Sequence[Tensor], strides: Sequence[int], ranges: Sequence[Sequence[float]]
) -> Cells:
    """The cells of all levels; a level is for objects whose largest distance is in its range."""
    if len(points) != len(ranges):
        raise ValueError(f"{len(ranges)} regress_ranges for {len(points)} feature maps")
    joined = torch.cat(list(points))
    counts = torch.tensor([len(each) for each in points], device=joined.device)
    return Cells(
        joined,
        joined.new_tensor(strides).repeat_interleave(counts),
        joined.new_tensor(ranges).repeat_interleave(counts, 0),
    )


def assign(
    cells: Cells, boxes: Tensor, labels: Tensor, num_classes: int, radius: float | None = None
) -> tuple[Tensor, Tensor]:
    """Objects' boxes [N, 4], labels [N] -> labels [S], num_classes for none, distances [S, 4]."""
    owner, sides = owners(cells, boxes, radius)
    if not len(boxes):
        return torch.full_like(owner, num_classes), sides
    return torch.where(owner < 0, num_classes, labels[owner.clamp(min=0)]), sides


def owners(
    cells: Cells, boxes: Tensor, radius: float | None = None, centers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Objects' boxes [N, 4] -> the object of each cell [S], or -1, and distances [S, 4].

    A cell is an object's if it lies in its box (with `radius`, also within radius * stride of its
    center) and the largest distance is in the range of its level; of several the smallest box wins.
    `centers` [N, 2] are by default those of the boxes.
    """
    if not len(boxes):
        none = torch.full((len(cells.points),), -1, device=boxes.device)
        return none, cells.points.new_zeros(len(cells.points), 4)
    sides = distances(cells.points[:, None], boxes)  # [S, N, 4]
    if radius is None:
        inside = sides.amin(-1) > 0
    else:
        center = (boxes[:, :2] + boxes[:, 2:]) / 2 if centers is None else centers
        reach = cells.strides[:, None, None] * radius
        low = torch.maximum(center - reach, boxes[:, :2])  # [S, N, 2]
        high = torch.minimum(center + reach, boxes[:, 2:])
        inside = distances(cells.points[:, None], torch.cat((low, high), -1)).amin(-1) > 0
    largest = sides.amax(-1)
    in_range = (largest >= cells.ranges[:, :1]) & (largest <= cells.ranges[:, 1:])
    areas = torch.where(inside & in_range, box_ops.area(boxes), FAR)
    least, owner = areas.min(1)  # [S]
    sides = sides[torch.arange(len(owner)), owner]
    return torch.where(least == FAR, -1, owner), sides
