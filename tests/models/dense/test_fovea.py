"""FoveaBox: targets and boxes against the rules of the paper."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.dense import ImageSizes
from cupola.registry import MODELS

STRIDES, EDGES, RANGES = (8, 16), (16, 32), ((1, 24), (16, 96))
SETTINGS: dict[str, Any] = {
    "type": "FoveaHead",
    "num_classes": 3,
    "in_channels": 8,
    "feat_channels": 8,
    "stacked_convs": 1,
    "strides": STRIDES,
    "base_edge_list": EDGES,
    "scale_ranges": RANGES,
    "sigma": 0.4,
    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 1.5, "alpha": 0.4},
    "loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11},
    "test_cfg": {"score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.9}},
}
TARGET = {
    "boxes": torch.tensor([[8.0, 8, 56, 40], [10, 12, 30, 32], [-4, 50, 200, 63]]),
    "labels": torch.tensor([0, 2, 1]),
}


def maps() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 8, 8, 12), torch.randn(1, 8, 4, 6)]


def plain_targets() -> tuple[list[int], dict[int, list[float]]]:
    """The label of every cell, and the distances of the positive ones, cell by cell."""
    labels, sides = [], {}
    for stride, edge, (low, high), (h, w) in zip(
        STRIDES, EDGES, RANGES, ((8, 12), (4, 6)), strict=True
    ):
        for row in range(h):
            for column in range(w):
                best = (1e9, -1)
                for number, (x0, y0, x1, y1) in enumerate(TARGET["boxes"].tolist()):
                    size = ((x1 - x0) * (y1 - y0)) ** 0.5
                    inside = True
                    for cell, a, b, count in ((column, x0, x1, w), (row, y0, y1, h)):
                        a, b, half = a / stride, b / stride, (b - a) / stride / 2
                        first = torch.tensor(a + 0.6 * half - 0.5).ceil().clamp(0, count - 1)
                        last = torch.tensor(a + 1.4 * half - 0.5).floor().clamp(0, count - 1)
                        inside &= bool(first <= cell <= last)
                    if inside and low <= size <= high and size < best[0]:
                        best = (size, number)
                if best[1] < 0:
                    labels.append(3)
                    continue
                x0, y0, x1, y1 = TARGET["boxes"][best[1]].tolist()
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                ratios = torch.tensor([x - x0, y - y0, x1 - x, y1 - y]) / edge
                sides[len(labels)] = ratios.clamp(1 / 16, 16).log().tolist()
                labels.append(int(TARGET["labels"][best[1]]))
    return labels, sides


def test_the_middle_of_an_object_trains() -> None:
    labels, goals = MODELS.build(SETTINGS).wanted(maps(), TARGET)
    expected, sides = plain_targets()
    assert labels.tolist() == expected and 2 < len(sides) < 20
    for index, each in sides.items():
        assert torch.allclose(goals[index], torch.tensor(each), atol=1e-5)


def test_losses_equal_their_formulas() -> None:
    torch.manual_seed(0)
    head = MODELS.build(SETTINGS)
    output = head(maps())
    losses = head.loss(output, [TARGET], ImageSizes([(64, 96)], [(64, 96)]))
    labels, sides = plain_targets()
    logits, rows = (each[0] for each in head.joined(output))
    goal = F.one_hot(torch.tensor(labels), 4)[:, :3].float()
    p = logits.sigmoid()
    focus = torch.where(goal > 0, 0.4 * (1 - p) ** 1.5, 0.6 * p**1.5)
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    expected = (focus * entropy).sum() / (len(sides) + 1)
    assert torch.allclose(losses["loss_cls"], expected, rtol=1e-5)
    away = (rows[list(sides)] - torch.tensor(list(sides.values()))).abs()
    smooth = torch.where(away < 0.11, away**2 / 0.22, away - 0.055)
    assert torch.allclose(losses["loss_bbox"], smooth.sum() / len(sides), rtol=1e-5)


@pytest.mark.parametrize("deform", [False, True])
def test_boxes_are_within_the_last_pixels(deform: bool) -> None:
    torch.manual_seed(0)
    head = MODELS.build({**SETTINGS, "with_deform": deform, "deform_groups": 2}).eval()
    output = head(maps())
    found = head.predict(output, [(60, 90)], [None])[0]
    scores, boxes = head.scored_boxes(output)
    assert torch.allclose(found.scores[0], scores.max(), atol=1e-6)
    cell, label = divmod(int(scores.argmax()), 3)
    best = boxes[0, cell].clamp(min=0)
    best = torch.minimum(best, torch.tensor([89.0, 59, 89, 59]))
    assert torch.allclose(found.boxes[0], best, atol=1e-4) and found.labels[0] == label
    stride, place = (8, cell) if cell < 96 else (16, cell - 96)
    row = torch.cat([each.flatten(2).transpose(1, 2) for each in output.boxes], 1)[0, cell]
    x = (place % (96 // stride) + 0.5) * stride
    assert torch.allclose(boxes[0, cell, 0], x - 2 * stride * row[0].exp(), atol=1e-3)
