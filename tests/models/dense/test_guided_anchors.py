"""Guided anchors: where they are, what their shapes are, and their losses, by hand."""

import math
from typing import Any

import pytest
import torch
from dense_small import model

from cupola.models.guided_anchoring import GuidedOutput, location_targets
from cupola.models.guided_anchoring.locations import level_of
from cupola.registry import MODELS, build

BOX = torch.tensor([[16.0, 16, 80, 64]])


def test_centers_of_objects_are_targets_on_the_level_of_their_size() -> None:
    fine, coarse = location_targets([BOX, BOX[:0]], [(10, 12), (5, 6)], [8, 16], 4, 0.25, 0.5)
    # Its side is 55 pixels: nearer to the anchors of 64 pixels of the coarse level.
    assert level_of(BOX[0].tolist(), 32, 2) == 1
    targets, weights = coarse
    # Center (48, 40), 64 x 48: the inner quarter is x 40..56, y 34..46, in cells 2..4 and 2..3.
    inner = torch.zeros(5, 6)
    inner[2:4, 2:5] = 1
    assert torch.equal(targets[0], inner) and not targets[1].any()
    # The inner half is x 32..64, y 28..52, in cells 2..4 and 2..3 as well.
    assert (weights[0] == 1).sum() == 6 and (weights[0] == 0.1).sum() == 24
    targets, weights = fine
    assert not targets.any()
    # In cells of 8 pixels 4..8 and 4 (3.5 is rounded to even)..6 (6.5, too).
    assert (weights[0, 4:7, 4:9] == 0).all() and (weights[0] == 0).sum() == 15
    assert (weights[1] == 0.1).all()


@pytest.fixture
def head() -> Any:
    torch.manual_seed(0)
    head = build(model("ga")).eval().bbox_head
    head.threshold = 0.5
    return head


def output() -> GuidedOutput:
    shapes = [(4, 6), (2, 3)]
    return GuidedOutput(
        *(tuple(torch.randn(2, width, h, w) for h, w in shapes) for width in (3, 4, 2, 1))
    )


def test_boxes_of_cells_with_an_anchor(head: Any) -> None:
    out = output()
    scores, boxes = head.scored_boxes(out)
    assert scores.shape == (2, 30, 3) and boxes.shape == (2, 30, 4)
    where = 0, 1, 2  # level 0, row 1, column 2 of the second image: cell 8
    width, height = (32 * math.exp(float(out.shapes[0][1, i, 1, 2])) for i in (0, 1))
    dx, dy, dw, dh = out.boxes[where[0]][1, :, 1, 2].tolist()
    x, y = 16 + dx * width, 8 + dy * height
    half = width * math.exp(dw) / 2, height * math.exp(dh) / 2
    expected = torch.tensor([x - half[0], y - half[1], x + half[0], y + half[1]])
    torch.testing.assert_close(boxes[1, 8], expected, rtol=1e-4, atol=1e-3)
    used = torch.cat([each.flatten(1) >= 0 for each in out.locations], 1)
    assert torch.equal((scores > 0).all(-1), used)
    found = head.predict(out, [(32, 48)] * 2, [None] * 2)
    kept = scores[0].clone()
    assert found[0].scores[0] == kept.max()


def test_proposals_of_a_training_come_from_all_cells(head: Any) -> None:
    """The second stage trains with them before the head knows where objects are."""
    nowhere = [torch.full((1, 1, 4, 6), -9.0)]
    out = GuidedOutput(*[nowhere] * len(GuidedOutput._fields))
    assert not head.located(out)[0].any()
    assert head.train().located(out)[0].all()


def test_losses_of_locations_and_shapes(head: Any) -> None:
    out, target = output(), {"boxes": torch.tensor([[2.0, 2, 30, 28]]), "labels": torch.zeros(1)}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
    targets = [target, nothing]
    found = head.location_loss(out, targets)
    total, boxes = 0.0, [each["boxes"] for each in targets]
    wanted = location_targets(boxes, [(4, 6), (2, 3)], [8, 16], 4, 0.2, 0.5)
    for logits, (goal, weight) in zip(out.locations, wanted, strict=True):
        score = logits[:, 0].sigmoid()
        center = -0.75 * score**2 * (1 - score).log()  # class 1, the background: as the original
        other = -0.25 * (1 - score) ** 2 * score.log()
        total += float((torch.where(goal == 1, center, other) * weight).sum())
    assert abs(found.item() - total / (60 / 200)) < 1e-3
    usable = [torch.ones(30, dtype=torch.bool)] * 2
    # The square of the first cell that is assigned, with its shape, against the object.
    assert head.shape_loss(out, targets, usable) > 0
    exact = torch.tensor([28 / 32, 26 / 32]).log()
    fitted = out._replace(shapes=tuple(exact.view(1, 2, 1, 1).expand_as(x) for x in out.shapes))
    assert head.shape_loss(fitted, targets, usable) < head.shape_loss(out, targets, usable)
    assert head.shape_loss(out, [nothing] * 2, usable) == 0


def test_exported_proposals_are_boxes_of_guided_anchors() -> None:
    """Not of the squares that the shapes are relative to."""
    torch.manual_seed(0)
    squares = {"type": "AnchorGenerator", "ratios": [1.0], "scales": [4], "strides": [8, 16]}
    approxes = {**squares, "scales": None, "octave_base_scale": 4, "scales_per_octave": 3}
    proposals: Any = MODELS.build(
        {
            "type": "GARPNHead",
            "in_channels": 8,
            "feat_channels": 8,
            "approx_anchor_generator": approxes,
            "square_anchor_generator": squares,
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        }
    ).eval()
    out = output()._replace(logits=tuple(x[:, :1] for x in output().logits))
    scores, boxes = proposals.scored_boxes(out)
    cfg = {"nms_pre": 100, "max_per_img": 1, "nms": {"type": "nms", "iou_threshold": 0.7}}
    best = proposals.propose(out, [(10**6, 10**6)] * 2, cfg)[0]
    inside = boxes[0].clamp(min=0)
    torch.testing.assert_close(best.boxes[0], inside[scores[0, :, 0].argmax()])
