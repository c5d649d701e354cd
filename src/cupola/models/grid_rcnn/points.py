"""The points of a grid in a region twice as large as a box, and the part of it for each.

Letters: R regions, G points, m side of the map of a point's part.
"""

import math

import torch
from torch import Tensor


class GridPoints:
    """`count` points, a square number, column by column, in a map of `side` cells.

    Each has a part of half the side (Grid R-CNN Plus, arXiv 1906.05688). Source: mmdet's
    grid_head.py.
    """

    def __init__(self, count: int, side: int) -> None:
        self.size = math.isqrt(count)
        if count < 4 or self.size**2 != count:
            raise ValueError(f"grid_points is a square number of at least 4, got {count}")
        self.count, self.side, self.half = count, side, side // 4 * 2
        starts = [self._start(i) for i in range(self.size)]
        self.parts = [(x, y) for x in starts for y in starts]

    def _start(self, index: int) -> int:
        """The first cell of the part of a row or column of points."""
        if index in (0, self.size - 1):
            return self.half if index else 0
        return max(int((index / (self.size - 1) - 0.25) * self.side), 0)

    def neighbors(self, point: int) -> list[int]:
        """The points left, above, below and right of one."""
        i, j = divmod(point, self.size)
        near = ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j))
        inside = range(self.size)
        return [x * self.size + y for x, y in near if x in inside and y in inside]

    def targets(self, regions: Tensor, objects: Tensor, radius: int) -> Tensor:
        """Regions and their objects [R, 4] -> maps [R, G, m, m], 1 within `radius` of the point.

        Regions not wider and higher than half the points of a side have none.
        """
        low, sides = regions[:, :2], regions[:, 2:] - regions[:, :2]
        low, sides = low - sides / 2, sides * 2  # twice as large
        far = torch.linspace(0, 1, self.size, device=regions.device)
        factors = torch.cartesian_prod(far, far)  # [G, 2]: x, y
        points = objects[:, None, :2] * (1 - factors) + objects[:, None, 2:] * factors  # [R, G, 2]
        cells = ((points - low[:, None]) / sides[:, None] * self.side).trunc()
        parts = torch.tensor(self.parts, device=regions.device)
        step = torch.arange(self.half, device=regions.device)
        x = parts[:, :1] + step - cells[..., :1]  # [R, G, m]
        y = parts[:, 1:] + step - cells[..., 1:]
        near = y[..., :, None] ** 2 + x[..., None, :] ** 2 <= radius**2
        return (near & (sides > self.size).all(1)[:, None, None, None]).to(regions)

    def boxes(self, logits: Tensor, regions: Tensor) -> Tensor:
        """Logits [R, G, m, m], regions [R, 4] -> boxes [R, 4].

        The points on a side vote for its place by their scores. Boxes may leave the image: the
        original clamps a copy of them, which has no effect.
        """
        best = logits.sigmoid().flatten(2).max(2)
        parts = torch.tensor(self.parts, device=logits.device)
        x = best.indices % self.half + parts[:, 0]
        y = best.indices // self.half + parts[:, 1]
        low, sides = regions[:, :2], regions[:, 2:] - regions[:, :2]
        places = (torch.stack((x, y), -1) + 0.5) / self.half * sides[:, None]
        places = places + (low - sides / 2)[:, None]  # [R, G, 2]
        grid = torch.arange(self.count, device=logits.device).view(self.size, self.size)
        votes = ((grid[0], 0), (grid[:, 0], 1), (grid[-1], 0), (grid[:, -1], 1))
        found = [
            (places[:, which, axis] * best.values[:, which]).sum(1) / best.values[:, which].sum(1)
            for which, axis in votes
        ]
        return torch.stack(found, 1)
