"""Boxes from the best corners of both kinds.

Letters: K corners of each kind.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.centernet.heatmaps import local_maxima

LARGE = 3500.0  # square pixels from which on a box has the larger central region
CENTRAL = (1 / 2.4, 1 / 2.1)  # the part of its sides that this is, of small and large boxes


class Corners(NamedTuple):
    """The best corners of an image: scores [K], labels [K], points [K, 2], in pixels.

    extra [K, D] are their embeddings, or the centers [K, 2] that they point to, in pixels.
    """

    scores: Tensor
    labels: Tensor
    points: Tensor
    extra: Tensor


def best_corners(
    parts: Sequence[Tensor], test_cfg: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [C, h, w], offsets [2, h, w], extra [D, h, w] -> the best local maxima.

    Scores [K], labels [K], points [K, 2] in cells, and extra [K, D]; K is `corner_topk`.
    """
    heat, offset, extra = parts
    count, kernel = test_cfg["corner_topk"], test_cfg["local_maximum_kernel"]
    scores = local_maxima(heat.sigmoid()[None], kernel)[0].flatten()
    height, width = heat.shape[-2:]
    values, index = scores.topk(min(count, len(scores)))
    place = index % (height * width)
    cell = torch.stack((place % width, place // width), 1)
    points = cell.to(offset) + offset.flatten(1)[:, place].T
    return values, index // (height * width), points, extra.flatten(1)[:, place].T


def pairs(
    first: Corners,
    second: Corners,
    threshold: float,
    limit: int,
    centered: bool,
    origin: tuple[float, float] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [M, 4], scores [M], -1 for corners that do not fit, and labels [M]; best first.

    Corners fit if they are of a class, in the right order, and their distance is at most
    `threshold`: that of the embeddings, or with `centered` of the centers that they point to.
    None lies to the left of or above `origin` (x, y).
    """
    count = len(second.scores)
    least = first.points.new_tensor(origin)
    low = first.points.maximum(least)[:, None].expand(-1, count, -1)  # [K, K, 2]
    high = second.points.maximum(least).expand(len(low), -1, -1)
    fits = (first.labels[:, None] == second.labels) & (high > low).all(-1)
    if centered:
        ends = first.extra.maximum(least), second.extra.maximum(least)
        fits = fits & centers_agree(low, high, *ends, threshold)
    else:
        away = (first.extra[:, None, 0] - second.extra[:, 0]).abs()
        fits = fits & ~(away > threshold)
    scores = torch.where(fits, (first.scores[:, None] + second.scores) / 2, -1.0).flatten()
    values, index = scores.topk(min(limit, len(scores)))
    boxes = torch.cat((low, high), -1).flatten(0, 1)
    return boxes[index], values, first.labels[index // count]


def centers_agree(
    low: Tensor, high: Tensor, first: Tensor, second: Tensor, threshold: float
) -> Tensor:
    """Whether the centers [K, 2] that corners point to are near those of their boxes, [K, K].

    Both are within the central region of the box, and they are near each other.
    """
    one, other = first[:, None].expand_as(low), second.expand_as(high)
    area = (high - low).prod(-1).abs()
    part = torch.where(area > LARGE, CENTRAL[1], CENTRAL[0])[..., None]
    middle, half = (low + high) / 2, part * (high - low) / 2
    start, end = middle - half, middle + half
    inside = ((one > start) & (one < end) & (other > start) & (other < end)).all(-1)
    away = (other - one).prod(-1).abs() / (end - start).prod(-1).abs()
    return inside & ~(away > threshold)
