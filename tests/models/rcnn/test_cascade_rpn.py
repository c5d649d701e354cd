"""Cascade RPN: the regions of objects, the points of convolutions, and losses, written out."""

from typing import Any

import pytest
import torch

from cupola.models.boxes import IGNORED, NEGATIVE, BboxOverlaps2D
from cupola.models.cascade_rpn import RegionAssigner
from cupola.models.cascade_rpn.stage import anchor_offsets
from cupola.models.dense import ImageSizes
from cupola.registry import MODELS, build
from cupola.structures.boxes import iou, pairwise_iou
from models.rcnn.rcnn_families import FAMILIES
from models.rcnn.test_rcnn_small import batch

CONFIG = FAMILIES["cascade rpn"][0]


def test_cells_in_the_middle_of_an_object_are_the_object_s() -> None:
    shapes, strides = [(16, 16), (8, 8)], [8, 16]
    boxes = torch.tensor([[0.0, 8, 40, 56], [30, 0, 126, 120]])
    found = RegionAssigner(0.2, 0.5)(boxes, shapes, strides, 4)
    # The anchors' sides are 32 and 64: the first object's side is 43.8, the second's 107.
    levels = [found[:256].view(16, 16).tolist(), found[256:].view(8, 8).tolist()]

    def region(box: list[float], ratio: float, stride: int) -> list[int]:
        cut = (1 - ratio) / 2
        left, top, right, bottom = (side / stride for side in box)
        return [
            round((1 - cut) * left + cut * right), round((1 - cut) * top + cut * bottom),
            round(cut * left + (1 - cut) * right), round(cut * top + (1 - cut) * bottom),
        ]  # fmt: skip

    def inside(x: int, y: int, place: list[int]) -> bool:
        return place[0] <= x <= place[2] and place[1] <= y <= place[3]

    seen = set()
    for level, own in ((0, 0), (1, 1)):
        other = 1 - own
        for y in range(shapes[level][0]):
            for x in range(shapes[level][1]):
                expected = NEGATIVE
                if inside(x, y, region(boxes[own].tolist(), 0.5, strides[level])):
                    expected = IGNORED
                if inside(x, y, region(boxes[own].tolist(), 0.2, strides[level])):
                    expected = own
                if inside(x, y, region(boxes[other].tolist(), 0.5, strides[level])):
                    expected = IGNORED  # the object is on the level next to it
                assert levels[level][y][x] == expected
                seen.add(expected)
    assert seen == {NEGATIVE, IGNORED, 0, 1}
    assert (RegionAssigner()(boxes[:0], shapes, strides, 4) == NEGATIVE).all()


def test_a_convolution_looks_at_nine_points_of_the_anchor() -> None:
    torch.manual_seed(0)
    low = torch.rand(1, 6, 2) * 20
    anchors = torch.cat((low, low + 4 + torch.rand(1, 6, 2) * 20), -1)
    offsets = anchor_offsets(anchors, 8, (2, 3))
    assert offsets.shape == (1, 18, 2, 3)
    for cell in range(6):
        left, top, right, bottom = anchors[0, cell].tolist()
        for k in range(9):
            i, j = divmod(k, 3)
            x = (left + right) / 2 + (j - 1) * (right - left) / 2
            y = (top + bottom) / 2 + (i - 1) * (bottom - top) / 2
            row, column = divmod(cell, 3)
            dy, dx = offsets[0, 2 * k : 2 * k + 2, row, column].tolist()
            assert (column + j - 1 + dx) * 8 == pytest.approx(x, abs=1e-4)
            assert (row + i - 1 + dy) * 8 == pytest.approx(y, abs=1e-4)


def test_stages_move_anchors_within_the_images() -> None:
    torch.manual_seed(0)
    head: Any = build(CONFIG).rpn_head
    maps = [torch.randn(2, 8, 8, 12), torch.randn(2, 8, 4, 6)]
    sizes = [(64, 96), (40, 50)]
    output = head(maps, sizes)
    first = output.previous[0]
    for level in range(2):
        rows = first.boxes[level].permute(0, 2, 3, 1).reshape(2, -1, 4)
        for i, size in enumerate(sizes):
            moved = head.stages[0].bbox_coder.decode(first.anchors[level][i], rows[i], size)
            torch.testing.assert_close(output.anchors[level][i], moved)
            assert (moved[:, 2] <= size[1]).all() and (moved[:, 3] <= size[0]).all()
    assert not output.anchors[0].requires_grad


def test_the_loss_of_the_first_stage_is_over_a_200th_of_the_cells() -> None:
    torch.manual_seed(0)
    head: Any = build(CONFIG).rpn_head
    maps = [torch.randn(2, 8, 8, 12), torch.randn(2, 8, 4, 6)]
    sizes, targets = [(64, 96)] * 2, batch()["targets"]
    output = head(maps, sizes)
    losses = head.loss(output, targets, ImageSizes(sizes, sizes))
    first = output.previous[0]
    anchors = torch.cat(first.anchors, 1)[0]
    rows = torch.cat([x.permute(0, 2, 3, 1).reshape(2, -1, 4) for x in first.boxes], 1)[0]
    boxes = targets[0]["boxes"]
    owners = head.stages[0].assigner(boxes, [(8, 12), (4, 6)], [8, 16], 4)
    mine = owners >= 0
    assert mine.any()
    found = head.stages[0].bbox_coder.decode(anchors[mine], rows[mine])
    total = (10 * (1 - iou(found, boxes[owners[mine]]))).sum()
    torch.testing.assert_close(losses["s0.loss_rpn_reg"], total / (2 * len(anchors) / 200))


def test_a_detector_of_proposals_alone() -> None:
    torch.manual_seed(0)
    model: Any = build(
        {
            **{k: CONFIG[k] for k in ("backbone", "neck", "rpn_head", "train_cfg", "test_cfg")},
            "type": "RPN",
        }
    )
    losses = model.loss(batch())
    assert set(losses) == {"s0.loss_rpn_reg", "s1.loss_rpn_cls", "s1.loss_rpn_reg"}
    found = model.eval().predict({"pixels": torch.randn(1, 3, 64, 96), "image_sizes": [(64, 96)]})
    assert 0 < len(found[0]) <= 40 and not found[0].labels.any()
    assert model.scored_boxes(torch.randn(1, 3, 64, 96))[1].shape == (1, 120, 4)
    assert model.fixed_axes == ("batch", "height", "width")  # anchors end where the image ends


def test_settings_that_are_not_supported_are_named() -> None:
    head = CONFIG["rpn_head"]
    with pytest.raises(ValueError, match="num_stages is 3, with 2 stages"):
        MODELS.build({**head, "num_stages": 3})
    with pytest.raises(ValueError, match="in its last stage"):
        MODELS.build({**head, "stages": head["stages"][::-1]})
    second = head["stages"][1]
    with pytest.raises(ValueError, match="'offset' or 'dilation', got 'shape'"):
        MODELS.build({**second, "adapt_cfg": {"type": "shape"}})
    with pytest.raises(ValueError, match="one anchor a cell"):
        MODELS.build(
            {**second, "anchor_generator": {**second["anchor_generator"], "ratios": [1.0, 2.0]}}
        )
    a, b = torch.rand(3, 4) + torch.tensor([0.0, 0, 1, 1]), torch.rand(2, 4)
    assert torch.equal(BboxOverlaps2D()(a, b), pairwise_iou(a, b))
