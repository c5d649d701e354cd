"""PointAssigner: the cells nearest to an object's center, on the level of its size.

Letters: A cells, N objects of an image.
"""

import torch
from torch import Tensor

from cupola.models.boxes import NEGATIVE, Assignment
from cupola.models.boxes.distances import centers
from cupola.registry import TASK_UTILS


@TASK_UTILS.register_module()
class PointAssigner:
    """`pos_num` cells of the level whose stride is nearest to an object's size over `scale`.

    Distances are in sides of the object; a cell is for the object that it is nearest to.
    Source: mmdet/models/task_modules/assigners/point_assigner.py.
    """

    def __init__(self, scale: int = 4, pos_num: int = 3) -> None:
        self.scale, self.pos_num = scale, pos_num

    def __call__(self, anchors: Tensor, boxes: Tensor) -> Assignment:
        """Squares of the stride's size around points [A, 4], objects [N, 4] -> Assignment."""
        owners = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
        nearest = anchors.new_full((len(anchors),), torch.inf)
        if not len(anchors):
            return Assignment(owners, nearest)
        points = centers(anchors)
        levels = (anchors[:, 2] - anchors[:, 0]).log2().round().int()
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
        wanted = (sides / self.scale).log2().mean(1).int()
        wanted = wanted.clamp(int(levels.min()), int(levels.max()))
        for number, (level, side, center) in enumerate(
            zip(wanted, sides, centers(boxes), strict=True)
        ):
            index = (levels == level).nonzero()[:, 0]
            away = ((points[index] - center) / side).norm(dim=1)
            best, where = away.topk(min(self.pos_num, len(away)), largest=False)
            chosen = index[where]
            nearer = best < nearest[chosen]
            owners[chosen[nearer]] = number
            nearest[chosen[nearer]] = best[nearer]
        return Assignment(owners, nearest)
