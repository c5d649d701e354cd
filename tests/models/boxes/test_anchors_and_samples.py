"""Anchors, deltas, assignment and sampling, against their rules written out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.models.boxes import (
    IGNORED,
    NEGATIVE,
    AnchorGenerator,
    Assignment,
    DeltaXYWHBBoxCoder,
    LegacyAnchorGenerator,
    LegacyDeltaXYWHBBoxCoder,
    MaxIoUAssigner,
    RandomSampler,
    with_objects,
)
from cupola.structures.boxes import pairwise_iou

SIDE = st.integers(0, 60)
BOX = st.tuples(SIDE, SIDE, st.integers(1, 40), st.integers(1, 40))


def boxes_of(rows: Any) -> torch.Tensor:
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows]).reshape(-1, 4).float()


def test_anchors_are_around_the_corners_of_cells() -> None:
    generator = AnchorGenerator([8, 16], ratios=[0.25, 1.0], scales=[2.0, 4.0])
    fine, coarse = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 1)])
    assert fine.shape == (2 * 3 * 4, 4) and generator.counts == [4, 4]
    assert fine[0].tolist() == [-16, -4, 16, 4]  # ratio 0.25, scale 2: 32 wide, 8 high
    assert fine[2].tolist() == [-8, -8, 8, 8]
    assert (fine[4] - fine[0]).tolist() == [8, 0, 8, 0]  # the next cell
    assert (fine[12] - fine[0]).tolist() == [0, 8, 0, 8]  # the next row
    assert coarse[3].tolist() == [-32, -32, 32, 32]
    by_scale = AnchorGenerator([8], ratios=[0.25, 1.0], scales=[2.0, 4.0], scale_major=False)
    assert by_scale.base_anchors[0][1].tolist() == fine[2].tolist()


def test_anchors_of_version_1_count_the_last_pixel() -> None:
    generator = LegacyAnchorGenerator([16], ratios=[1.0], scales=[1.0], center_offset=0.5)
    assert generator.base_anchors[0][0].tolist() == [0, 0, 15, 15]


def test_cells_beyond_the_padded_image_are_not_valid() -> None:
    maps = [torch.zeros(1, 1, 4, 4)]
    valid = AnchorGenerator([8], ratios=[1.0, 2.0], scales=[1.0]).valid(maps, (17, 32))[0]
    assert valid.view(4, 4, 2).all(2).tolist() == [[True] * 4] * 3 + [[False] * 4]


def test_settings_that_contradict_are_named() -> None:
    with pytest.raises(ValueError, match="octave_base_scale"):
        AnchorGenerator([8], ratios=[1.0])
    with pytest.raises(ValueError, match="one entry for each of the strides"):
        AnchorGenerator([8, 16], ratios=[1.0], scales=[1.0], base_sizes=[3])
    with pytest.raises(ValueError, match="2 feature maps for anchors of 1 strides"):
        AnchorGenerator([8], ratios=[1.0], scales=[1.0])([torch.zeros(1, 1, 1, 1)] * 2)


@pytest.mark.parametrize("kind", [DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(BOX, BOX), min_size=1, max_size=5))
def test_decoding_inverts_encoding(kind: Any, pairs: Any) -> None:
    anchors, boxes = boxes_of([a for a, _ in pairs]), boxes_of([b for _, b in pairs])
    coder = kind(target_means=[0.1, 0, 0, 0], target_stds=[0.1, 0.1, 0.2, 0.2])
    back = coder.decode(anchors, coder.encode(anchors, boxes))
    pixel = torch.tensor([-0.5, -0.5, 0.5, 0.5]) * kind.legacy  # the original adds it, too
    assert torch.allclose(back, boxes + pixel, atol=1e-2)
    inside = coder.decode(anchors, coder.encode(anchors, boxes), (20, 30))
    assert (inside >= 0).all() and inside[:, 2].max() <= 30 and inside[:, 3].max() <= 20


def written_out(overlaps: Any, cfg: Any) -> list[int]:
    found = []
    for column in zip(*overlaps, strict=True):
        best = max(range(len(column)), key=lambda i: (column[i], -i))
        each = IGNORED
        if column[best] < cfg["neg_iou_thr"]:
            each = NEGATIVE
        if column[best] >= cfg["pos_iou_thr"]:
            each = best
        found.append(each)
    for i, row in enumerate(overlaps):
        if cfg["match_low_quality"] and max(row) >= cfg["min_pos_iou"]:
            places = [a for a, value in enumerate(row) if value == max(row)]
            for a in places if cfg["gt_max_assign_all"] else places[:1]:
                found[a] = i
    return found


@settings(max_examples=80, deadline=None)
@given(
    st.lists(BOX, min_size=1, max_size=12),
    st.lists(BOX, min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
)
def test_assignment_follows_the_rules(
    anchors: Any, objects: Any, low: bool, every: bool, least: float
) -> None:
    cfg: dict[str, Any] = {
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.4,
        "min_pos_iou": least,
        "match_low_quality": low,
        "gt_max_assign_all": every,
    }
    found = MaxIoUAssigner(**cfg)(boxes_of(anchors), boxes_of(objects))
    overlaps = pairwise_iou(boxes_of(objects), boxes_of(anchors))
    assert found.objects.tolist() == written_out(overlaps.tolist(), cfg)
    assert torch.equal(found.overlaps, overlaps.amax(0))


def test_images_without_objects_are_background() -> None:
    found = MaxIoUAssigner(0.5, 0.4)(boxes_of([(0, 0, 3, 3)]), torch.zeros(0, 4))
    assert found.objects.tolist() == [NEGATIVE]


def test_random_samples_keep_the_limits() -> None:
    objects = torch.tensor([NEGATIVE] * 50 + [0, 1] * 20 + [IGNORED] * 5)
    assignment = Assignment(objects, torch.zeros(len(objects)))
    found = RandomSampler(20, 0.25)(assignment)
    assert (len(found.positive), len(found.negative)) == (5, 15)
    assert torch.equal(found.objects, objects[found.positive])
    assert (found.positive.diff() > 0).all() and (objects[found.negative] == NEGATIVE).all()
    assert len(RandomSampler(20, 0.25, neg_pos_ub=1)(assignment).negative) == 5
    both = with_objects(assignment, 3)
    assert both.objects[:3].tolist() == [0, 1, 2] and len(both.objects) == len(objects) + 3
