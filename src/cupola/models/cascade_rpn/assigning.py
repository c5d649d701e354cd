"""RegionAssigner: cells in the middle of an object, on the level of its size, are the object's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola.models.boxes import IGNORED, NEGATIVE
from cupola.models.guided_anchoring.locations import level_of, region
from cupola.registry import TASK_UTILS


@TASK_UTILS.register_module()
class RegionAssigner:
    """Cells in `center_ratio` of an object's sides are the object's.

    The rest of its `ignore_ratio` does not train, nor does this region on the next levels.
    Source: mmdet/models/task_modules/assigners/region_assigner.py.
    """

    def __init__(self, center_ratio: float = 0.2, ignore_ratio: float = 0.5) -> None:
        self.center, self.around = (1 - center_ratio) / 2, (1 - ignore_ratio) / 2

    def __call__(
        self, boxes: Tensor, shapes: Sequence[tuple[int, int]], strides: Sequence[int], scale: float
    ) -> Tensor:
        """Objects' boxes [N, 4], shapes (h, w) of the levels -> owners [S] of the cells.

        Owners are indices of objects, NEGATIVE or IGNORED. An anchor's side is `scale` strides.
        """
        found = [torch.full(shape, NEGATIVE, device=boxes.device) for shape in shapes]
        next_to = [torch.zeros_like(each, dtype=torch.bool) for each in found]
        for number, box in enumerate(boxes.tolist()):
            level = level_of(box, scale * strides[0], len(shapes))
            place = (strides[level], shapes[level])
            found[level][region(box, self.around, *place)] = IGNORED
            found[level][region(box, self.center, *place)] = number
            for other in (level - 1, level + 1):
                if 0 <= other < len(shapes):
                    around = region(box, self.around, strides[other], shapes[other])
                    next_to[other][around] = True
        owners = [
            torch.where(near, IGNORED, each) for each, near in zip(found, next_to, strict=True)
        ]
        return torch.cat([each.flatten() for each in owners])
