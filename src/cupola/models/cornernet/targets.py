"""What heatmaps of corners should be.

Letters: B images, N objects of an image, C classes, (h, w) a heatmap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.models.centernet.heatmaps import draw_gaussian, gaussian_radius

Targets = Sequence[Mapping[str, Tensor]]
LEAST_OVERLAP = 0.3  # of a box whose corners move within the Gaussians


@dataclass(frozen=True)
class CornerTargets:
    """Of one kind of corner: heat [B, C, h, w], 1 at corners; offset, guiding, and centripetal.

    These are [B, 2, h, w], at the corners: (x, y) of the corner within its cell, from the cell to
    the box's center, and the logs of how far this is from the corner. cells [N, 2] are the
    (row, column) of the objects of every image.
    """

    heat: Tensor
    offset: Tensor
    guiding: Tensor
    centripetal: Tensor
    cells: list[Tensor]

    @property
    def mask(self) -> Tensor:
        """Where the corners are, [B, 1, h, w], 0 or 1."""
        return (self.heat == 1).any(1, keepdim=True).to(self.heat)


def corner_targets(
    targets: Targets, like: Tensor, size: tuple[int, int]
) -> tuple[CornerTargets, CornerTargets]:
    """Objects in a batch of `size` (H, W), heatmaps [B, C, h, w] -> top left and bottom right."""
    batch, _, height, width = like.shape
    kinds = []
    for first in (0, 2):  # left and top, or right and bottom
        shifts = like.new_zeros(3, batch, 2, height, width)
        found = CornerTargets(torch.zeros_like(like), shifts[0], shifts[1], shifts[2], [])
        for i, target in enumerate(targets):
            scale = like.new_tensor([width / size[1], height / size[0]])
            boxes = target["boxes"].to(like)
            scaled, center = boxes * scale.repeat(2), (boxes[:, :2] + boxes[:, 2:]) / 2 * scale
            corner = scaled[:, first : first + 2]
            cell = torch.minimum(corner, scale.new_tensor([width - 1, height - 1])).long()
            found.cells.append(cell.flip(1))
            side = (scaled[:, 2:] - scaled[:, :2]).ceil()
            sign = 1 if first == 0 else -1
            guiding, away = sign * (center - cell), sign * (center - corner)
            rows = (target["labels"].tolist(), cell.tolist(), side.tolist())
            for n, (label, (x, y), (wide, high)) in enumerate(zip(*rows, strict=True)):
                radius = gaussian_radius(high, wide, LEAST_OVERLAP)
                draw_gaussian(found.heat[i, label], x, y, max(0, int(radius)))
                found.offset[i, :, y, x] = corner[n] - cell[n]
                found.guiding[i, :, y, x] = guiding[n]
                found.centripetal[i, :, y, x] = away[n].log()
        kinds.append(found)
    return kinds[0], kinds[1]
