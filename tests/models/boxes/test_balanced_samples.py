"""Samplers of Libra R-CNN, and the assignment of groups of anchors, against their rules."""

import pytest
import torch

from cupola.models.boxes import ApproxMaxIoUAssigner, Assignment, MaxIoUAssigner
from cupola.registry import TASK_UTILS

# 40 proposals of object 0, 4 of object 1, 2 ignored, 100 of the background with IoU 0, 20 above.
OBJECTS = torch.tensor([0] * 40 + [1] * 4 + [-2] * 2 + [-1] * 120)
OVERLAPS = torch.cat(
    (torch.full((44,), 0.9), torch.full((2,), 0.5), torch.zeros(100), torch.linspace(0.01, 0.4, 20))
)
ASSIGNMENT = Assignment(OBJECTS, OVERLAPS)
LIBRA = {
    "type": "CombinedSampler",
    "num": 60,
    "pos_fraction": 0.2,
    "add_gt_as_proposals": True,
    "pos_sampler": {"type": "InstanceBalancedPosSampler"},
    "neg_sampler": {"type": "IoUBalancedNegSampler", "num_bins": 3},
}


def test_equally_many_positives_of_each_object() -> None:
    torch.manual_seed(0)
    sampler = TASK_UTILS.build(LIBRA)
    assert sampler.add_gt_as_proposals and sampler.counts_negative
    sample = sampler(ASSIGNMENT)
    assert len(sample.positive) == 12 and len(sample.negative) == 48
    assert (OBJECTS[sample.positive] >= 0).all() and (OBJECTS[sample.negative] == -1).all()
    assert sample.objects.tolist() == OBJECTS[sample.positive].tolist()
    assert len(sample.positive.unique()) == 12 and len(sample.negative.unique()) == 48
    assert (sample.objects == 1).sum() >= 3  # of 7 per object and the 4 that there are, 12 drawn
    few = sampler(Assignment(OBJECTS[36:], OVERLAPS[36:]))
    assert len(few.positive) == 8


def test_as_many_negatives_from_each_interval() -> None:
    torch.manual_seed(0)
    settings = {"num": 60, "pos_fraction": 0.2, "num_bins": 3}
    sampler = TASK_UTILS.build({**settings, "type": "IoUBalancedNegSampler", "floor_thr": -1})
    first = OVERLAPS[sampler.negative(ASSIGNMENT, 48)]
    # Intervals of 0.3: 16 of the first with its 100 zeros, all 5 of the next, the rest at random.
    assert len(first) == 48 and (first >= 0.3).sum() == 5
    second = OVERLAPS[sampler.negative(ASSIGNMENT, 48)]  # from now on all above 0 first
    assert (second > 0).sum() == 20
    floor = TASK_UTILS.build(
        {
            **settings,
            "type": "IoUBalancedNegSampler",
            "floor_thr": 0.2,
            "floor_fraction": 0.75,
            "num_bins": 1,
        }
    )
    chosen = OVERLAPS[floor.negative(ASSIGNMENT, 20)]
    assert len(chosen) == 20 and (chosen >= 0.2).sum() == 5
    with pytest.raises(Exception, match="floor_thr is -1 or at least 0"):
        TASK_UTILS.build({**settings, "type": "IoUBalancedNegSampler", "floor_thr": -2})


def test_groups_of_anchors_have_their_largest_overlap() -> None:
    torch.manual_seed(0)
    low = torch.rand(30, 4, 2) * 60
    groups = torch.cat((low, low + 10 + torch.rand(30, 4, 2) * 30), -1)
    objects = groups[[3, 17], [1, 2]] + 1
    limits = {"pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.2}
    found = ApproxMaxIoUAssigner(**limits)(groups, objects)
    each = MaxIoUAssigner(**limits)(groups.flatten(0, 1), objects)
    assert torch.equal(found.overlaps, each.overlaps.view(30, 4).amax(1))
    assert found.objects[3] == 0 and found.objects[17] == 1
    assert torch.equal(found.objects >= 0, (each.objects.view(30, 4) >= 0).any(1))
    assert (ApproxMaxIoUAssigner(**limits)(groups, objects[:0]).objects == -1).all()
