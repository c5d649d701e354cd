"""CenterRegionAssigner: an anchor near the center of an object is the object's.

Letters: A anchors, N objects of an image.
"""

import torch
from torch import Tensor

from cupola.models.boxes import NEGATIVE
from cupola.models.boxes.distances import boxes_around, centers
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import area


@TASK_UTILS.register_module()
class CenterRegionAssigner:
    """Anchors with a part above `min_pos_iof` in an object's core, and their center in its box.

    The core is the box, scaled by `pos_scale`; of several objects the smallest takes the anchor.
    An anchor in the region scaled by `neg_scale`, or in a core that is not its own, does not train
    that object's class; if this is the class of its own object, it is background, or with
    `foreground_dominate` remains the object's. `ignore_gt_scale` has no effect: annotations of
    crowds are left out of training.
    Source: mmdet/models/task_modules/assigners/center_region_assigner.py.
    """

    def __init__(
        self,
        pos_scale: float,
        neg_scale: float,
        min_pos_iof: float = 1e-2,
        ignore_gt_scale: float = 0.5,
        foreground_dominate: bool = False,
    ) -> None:
        self.pos_scale, self.neg_scale, self.least = pos_scale, neg_scale, min_pos_iof
        self.foreground_dominates = foreground_dominate

    def __call__(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Anchors [A, 4], objects' boxes [N, 4], xyxy, labels [N] -> owners [A], shadowed [A, N].

        Owners are indices of objects, or NEGATIVE. An anchor does not train the classes of the
        objects by which it is shadowed.
        """
        if not len(boxes):
            nobody = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
            return nobody, torch.zeros(len(anchors), 0, dtype=torch.bool, device=anchors.device)
        core = within(centers(anchors), boxes)
        core = core & (part_within(anchors, scaled(boxes, self.pos_scale)) > self.least)
        near = part_within(anchors, scaled(boxes, self.neg_scale)) > self.least
        priority = area(boxes).argsort(descending=True, stable=True).argsort()  # the smallest last
        best, owner = torch.where(core, priority, -1).max(1)  # [A]
        owned = best >= 0
        number = torch.arange(len(boxes), device=boxes.device)
        own = owned[:, None] & (owner[:, None] == number)
        shadowed = (near & ~core) | (core & ~own)
        same = shadowed & owned[:, None] & (labels == labels[owner][:, None])
        if self.foreground_dominates:
            shadowed = shadowed & ~same
        else:
            owned = owned & ~same.any(1)
        return torch.where(owned, owner, NEGATIVE), shadowed


def scaled(boxes: Tensor, scale: float) -> Tensor:
    """Boxes [N, 4], xyxy, with sides times `scale` around the same centers."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    return boxes_around(centers(boxes), torch.cat((half, half), -1))


def within(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points [A, 2] are inside of boxes [N, 4], xyxy -> [A, N]."""
    above = (points[:, None] > boxes[:, :2]).all(-1)
    return above & (points[:, None] < boxes[:, 2:]).all(-1)


def part_within(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The part 0..1 of anchors [A, 4] that is in boxes [N, 4], xyxy -> [A, N]."""
    low = torch.maximum(anchors[:, None, :2], boxes[:, :2])
    high = torch.minimum(anchors[:, None, 2:], boxes[:, 2:])
    return (high - low).clamp(min=0).prod(-1) / area(anchors).clamp(min=1e-6)[:, None]
