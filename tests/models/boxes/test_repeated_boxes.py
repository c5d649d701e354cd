"""Objects of the same box are set apart by chance, others stay."""

import pytest
import torch

from cupola.models.boxes import MaxIoUAssigner
from cupola.models.boxes.repeated import Spread, set_apart
from cupola.structures.boxes import pairwise_iou

BOXES = torch.tensor([[10.0, 10, 110, 90], [5, 5, 30, 40], [10, 10, 110, 90], [10, 10, 110, 90]])


def test_repeated_boxes_are_moved_by_at_most_the_range() -> None:
    torch.manual_seed(0)
    found = set_apart(BOXES, Spread(iou_thr=0.7, perm_range=0.01))
    assert torch.equal(found[1], BOXES[1])
    moved = found[[0, 2, 3]]
    assert len(moved.unique(dim=0)) == 3
    assert ((moved / BOXES[0] - 1).abs() <= 0.01 + 1e-6).all()
    assert (pairwise_iou(BOXES[:1], moved) >= 0.7).all()
    assert torch.equal(set_apart(BOXES[:2], Spread()), BOXES[:2])


def test_a_box_that_moves_too_far_is_drawn_again_with_a_smaller_range() -> None:
    """A percent of its place is more than this box's side; the last range is a thousandth."""
    torch.manual_seed(0)
    small = torch.tensor([[1000.0, 1000, 1008, 1008]] * 2)
    found = set_apart(small, Spread(iou_thr=0.7, perm_range=0.01))
    assert (found != small).any() and ((found / small - 1).abs() <= 0.001 + 1e-6).all()


def test_anchors_are_shared_among_objects_of_the_same_box() -> None:
    settings = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5}
    settings["match_low_quality"] = False
    torch.manual_seed(0)
    anchors = BOXES[:1] + 4 * torch.randn(60, 4)
    plain = MaxIoUAssigner(**settings)(anchors, BOXES)
    apart = MaxIoUAssigner(**settings, perm_repeat_gt_cfg={"iou_thr": 0.7})(anchors, BOXES)
    assert set(plain.objects.tolist()) == {0}
    assert set(apart.objects.tolist()) == {0, 2, 3}
    with pytest.raises(TypeError, match="iou_threshold"):
        MaxIoUAssigner(**settings, perm_repeat_gt_cfg={"iou_threshold": 0.7})
