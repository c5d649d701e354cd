"""Objects of the same box, such as those of a class and of its parent class: boxes set apart.

Letters: N objects of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cupola.structures.boxes import pairwise_iou

RETRIES = 5
RETRY_IOU = 0.97  # the first try is judged by the config's, retries by this, as in the original
STEP, LEAST = 1e-3, 1e-3  # the spread shrinks by a step more with each retry


class Spread(NamedTuple):
    """How far repeated boxes are moved: each side by a factor of at most 1 +- `perm_range`.

    Boxes whose IoU with the original is below `iou_thr` are drawn again.
    """

    iou_thr: float = 0.97
    perm_range: float = 0.01


def set_apart(boxes: Tensor, spread: Spread) -> Tensor:
    """Boxes [N, 4], xyxy -> [N, 4]: those that several objects have are moved by chance.

    An anchor would be for the first of them alone otherwise. The numbers are torch's. Source:
    perm_repeat_bboxes of mmdet/models/task_modules/assigners/max_iou_assigner.py.
    """
    found = boxes.clone()
    unique, counts = torch.unique(boxes, dim=0, return_counts=True)
    for box in unique[counts > 1]:
        same = (boxes == box).all(-1)
        found[same] = _moved(boxes[same], spread)
    return found


def _moved(boxes: Tensor, spread: Spread) -> Tensor:
    """Equal boxes [N, 4] -> moved ones; the last try is taken as it is."""
    width, least = spread.perm_range, spread.iou_thr
    for tries in range(RETRIES + 1):
        found = boxes * torch.empty_like(boxes).uniform_(1 - width, 1 + width)
        proper = (found[:, 2:] > found[:, :2]).all()
        if proper and (pairwise_iou(boxes[:1], found) >= least).all():
            break
        width, least = max(width - tries * STEP, LEAST), RETRY_IOU
    return found
