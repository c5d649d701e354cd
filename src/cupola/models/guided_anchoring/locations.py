"""Where anchors should be: at the centers of objects, on the level of their size.

Letters: B images, (h, w) a level's cells.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

OUTSIDE = 0.1  # weight of cells far from objects


def location_targets(
    boxes: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scale: float,
    center_ratio: float,
    ignore_ratio: float,
) -> list[tuple[Tensor, Tensor]]:
    """The objects' boxes [N, 4] of every image -> targets and weights [B, h, w] of every level.

    `shapes` are (h, w); an anchor's side is `scale` strides. Targets are 1 in the middle of an
    object (`center_ratio` of its sides), with weight 1. The rest of its `ignore_ratio` has weight
    0, on the next levels as well, all else 0.1. Source: paper, section 3.2.
    """
    found = []
    for h, w in shapes:
        targets = torch.zeros(len(boxes), h, w, device=boxes[0].device)
        found.append((targets, torch.full_like(targets, -1), torch.zeros_like(targets)))
    center, around = (1 - center_ratio) / 2, (1 - ignore_ratio) / 2
    for i, objects in enumerate(boxes):
        for box in objects.tolist():
            level = level_of(box, scale * strides[0], len(shapes))
            inner = region(box, center, strides[level], shapes[level])
            targets, weights, _ = found[level]
            targets[i][inner] = 1
            weights[i][region(box, around, strides[level], shapes[level])] = 0
            weights[i][inner] = 1
            for next_to in (level - 1, level + 1):
                if 0 <= next_to < len(shapes):
                    found[next_to][2][i][region(box, around, strides[next_to], shapes[next_to])] = 1
    answers = []
    for targets, weights, ignored in found:
        outside = torch.where(ignored > 0, 0.0, OUTSIDE)
        answers.append((targets, torch.where(weights < 0, outside, weights)))
    return answers


def level_of(box: Sequence[float], least: float, levels: int) -> int:
    """The level of a box; `least` is the side of the anchors of the finest."""
    side = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-12))
    return min(max(math.floor(math.log2(side) - math.log2(least) + 0.5), 0), levels - 1)


def region(
    box: Sequence[float], margin: float, stride: int, shape: tuple[int, int]
) -> tuple[slice, slice]:
    """The cells of the middle of a box, without `margin` of its sides, as rows and columns."""
    (h, w), cut = shape, 1 - margin
    left, top, right, bottom = (side / stride for side in box)
    x = (round(cut * left + margin * right), round(margin * left + cut * right))
    y = (round(cut * top + margin * bottom), round(margin * top + cut * bottom))
    columns = slice(min(max(x[0], 0), w), min(max(x[1], 0), w) + 1)
    return slice(min(max(y[0], 0), h), min(max(y[1], 0), h) + 1), columns
