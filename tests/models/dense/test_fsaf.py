"""FSAF: assignment, coder and losses, written out cell by cell."""

import math
from typing import Any

import pytest
import torch
from dense_small import model

from cupola.models.dense import ImageSizes
from cupola.models.fsaf import CenterRegionAssigner, TBLRBBoxCoder
from cupola.registry import build

ANCHORS = torch.tensor([[x, y, x + 8.0, y + 8] for y in range(0, 64, 8) for x in range(0, 64, 8)])


def part(anchor: list[float], box: list[float]) -> float:
    """The part of the anchor that is in the box."""
    width = min(anchor[2], box[2]) - max(anchor[0], box[0])
    height = min(anchor[3], box[3]) - max(anchor[1], box[1])
    return max(width, 0) * max(height, 0) / 64


def scaled(box: list[float], by: float) -> list[float]:
    x, y, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    return [x - w * by / 2, y - h * by / 2, x + w * by / 2, y + h * by / 2]


@pytest.mark.parametrize("dominates", [False, True])
def test_an_anchor_in_a_core_is_the_smallest_object_s(dominates: bool) -> None:
    boxes = [[0.0, 0, 60, 60], [20, 20, 44, 40], [10, 30, 50, 64]]
    labels = [0, 1, 0]
    assigner = CenterRegionAssigner(0.3, 0.6, 0.01, foreground_dominate=dominates)
    owners, shadowed = assigner(ANCHORS, torch.tensor(boxes), torch.tensor(labels))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
    seen = set()
    for anchor, owner, shadow in zip(
        ANCHORS.tolist(), owners.tolist(), shadowed.tolist(), strict=True
    ):
        x, y = anchor[0] + 4, anchor[1] + 4
        inside = [b[0] < x < b[2] and b[1] < y < b[3] for b in boxes]
        core = [i for i in range(3) if inside[i] and part(anchor, scaled(boxes[i], 0.3)) > 0.01]
        near = [i for i in range(3) if part(anchor, scaled(boxes[i], 0.6)) > 0.01]
        expected = min(core, key=lambda i: areas[i]) if core else -1
        dark = (set(near) - set(core)) | (set(core) - {expected})
        same = {i for i in dark if expected >= 0 and labels[i] == labels[expected]}
        dark = dark - same if dominates else dark
        expected = -1 if same and not dominates else expected
        assert owner == expected
        assert {i for i in range(3) if shadow[i]} == dark
        seen |= {owner}
    assert seen >= {-1, 1}


def test_boxes_as_distances_in_units_of_the_anchor() -> None:
    coder = TBLRBBoxCoder([4.0, 2.0, 1.0, 0.5], clip_border=True)
    anchor, box = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[5.0, 8, 70, 90]])
    # The center is (20, 40), the sides 20 and 40.
    expected = [32 / 40 / 4, 50 / 40 / 2, 15 / 20 / 1, 50 / 20 / 0.5]
    found = coder.encode(anchor, box)
    torch.testing.assert_close(found, torch.tensor([expected]))
    torch.testing.assert_close(coder.decode(anchor, found), box)
    assert coder.decode(anchor, found, (50, 60)).tolist() == [[5, 8, 60, 50]]
    with pytest.raises(ValueError, match="normalizer is a number, or four"):
        TBLRBBoxCoder([1.0, 2.0])


def iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return max(width * height / max(sum(areas) - width * height, 1e-6), 1e-6)


def test_losses_of_the_best_levels() -> None:
    torch.manual_seed(0)
    head: Any = build(model("fsaf")).bbox_head
    maps = [torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4)]
    output = head(maps)
    targets = [
        {
            "boxes": torch.tensor([[4.0, 4, 60, 60], [6, 30, 30, 60]]),
            "labels": torch.tensor([0, 2]),
        },
        {"boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([1])},
    ]
    losses = head.loss(output, targets, ImageSizes([(64, 64)] * 2, [(64, 64)] * 2))
    anchors = head.anchors(output.logits)
    focal, placed = {}, []  # losses by (image, level, anchor, class), and of (object, level)
    for image, target in enumerate(targets):
        owners, shadowed = head.assigner(torch.cat(anchors), target["boxes"], target["labels"])
        start = 0
        for level, (logits, sides) in enumerate(zip(output.logits, output.boxes, strict=True)):
            logit = logits[image].permute(1, 2, 0).reshape(-1, 3)
            side = sides[image].permute(1, 2, 0).reshape(-1, 4).clamp(min=1e-4)
            for i in range(len(logit)):
                owner = int(owners[start + i])
                dark = {int(target["labels"][n]) for n in shadowed[start + i].nonzero()[:, 0]}
                for c in range(3):
                    p = torch.sigmoid(logit[i, c]).item()
                    mine = owner >= 0 and int(target["labels"][owner]) == c
                    loss = -0.25 * (1 - p) ** 2 * math.log(p) if mine else 0.0
                    loss = loss if mine else -0.75 * p**2 * math.log(1 - p)
                    focal[image, level, i, c] = 0.0 if c in dark else loss
                if owner >= 0:
                    box = head.bbox_coder.decode(anchors[level][i : i + 1], side[i : i + 1])[0]
                    box_loss = -math.log(iou(box.tolist(), target["boxes"][owner].tolist()))
                    placed.append((image, owner, level, i, box_loss))
            start += len(logit)
    best = {}
    for image, owner in {(p[0], p[1]) for p in placed}:
        means = {}
        for level in range(2):
            mine = [p for p in placed if p[:3] == (image, owner, level)]
            totals = [p[4] + sum(focal[image, level, p[3], c] for c in range(3)) for p in mine]
            means[level] = sum(totals) / len(totals) if totals else 1e6
        best[image, owner] = min(means, key=lambda level: means[level])
    kept = [p for p in placed if best[p[0], p[1]] == p[2]]
    for p in placed:
        if p not in kept:
            focal[p[0], p[2], p[3], int(targets[p[0]]["labels"][p[1]])] = 0.0
    assert 0 < len(kept) < len(placed)
    assert losses["loss_cls"].item() == pytest.approx(sum(focal.values()) / len(kept), rel=1e-4)
    assert losses["loss_bbox"].item() == pytest.approx(
        sum(p[4] for p in kept) / len(kept), rel=1e-4
    )
    assert losses["num_pos"] == len(kept) / 2
