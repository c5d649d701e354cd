"""CenterNet and its update: heatmaps, peaks and targets against their rules."""

import math

import pytest
import torch
from dense_small import STRIDES, model
from torch import Tensor

from cupola.models.centernet import gaussian_radius
from cupola.models.centernet.heatmaps import draw_gaussian, local_maxima
from cupola.models.dense import ImageSizes
from cupola.models.fcos.targets import cells_of
from cupola.registry import build
from cupola.structures.boxes import giou, iou

HEAD = {"type": "CenterNetHead", "in_channels": 8, "feat_channels": 8, "num_classes": 3}
TARGET = {
    "boxes": torch.tensor([[8.0, 8, 41, 30], [4, 2, 90, 60], [60, 40, 75, 50]]),
    "labels": torch.tensor([0, 2, 0]),
}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def small() -> dict[str, object]:
    neck = {
        "type": "CTResNetNeck",
        "in_channels": 32,
        "num_deconv_filters": [8, 8],
        "num_deconv_kernels": [4, 4],
        "use_dcn": False,
    }
    plain = model("centernet-update")
    backbone = {**plain["backbone"], "out_indices": [2]}
    test = {"topk": 10, "local_maximum_kernel": 3, "max_per_img": 10}
    parts = {"backbone": backbone, "neck": neck, "bbox_head": HEAD, "test_cfg": test}
    return {"type": "CenterNet", **parts}


def test_training_lowers_the_losses() -> None:
    torch.manual_seed(0)
    built = build(small())
    batch = {"pixels": torch.randn(2, 3, 60, 90), "targets": [TARGET, NOTHING]}
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    totals = []
    for _ in range(6):
        losses = built.loss(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == {"loss_center_heatmap", "loss_wh", "loss_offset"}
    assert totals[-1].item() < 0.9 * totals[0].item()


def test_the_best_peaks_are_boxes_in_pixels_of_the_original_image() -> None:
    torch.manual_seed(0)
    built = build(small()).eval()
    pixels = torch.randn(1, 3, 64, 96)
    output = built(pixels)
    assert output.stride == (4.0, 4.0)
    batch = {"pixels": pixels, "image_sizes": [(64, 96)], "scale_factors": [(2.0, 2.0)]}
    found = built.predict(batch)[0]
    heat = output.heatmaps[0][0].detach()
    best = []
    for label, row, column in (heat > 0).nonzero().tolist():
        low = (max(row - 1, 0), max(column - 1, 0))
        if heat[label, row, column] == heat[label, low[0] : row + 2, low[1] : column + 2].max():
            best.append((float(heat[label, row, column]), label, row, column))
    best = sorted(best, reverse=True)[:10]
    assert torch.allclose(found.scores, torch.tensor([each[0] for each in best]))
    assert found.labels.tolist() == [each[1] for each in best]
    _, _, row, column = best[0]
    width, height = output.sizes[0][0, :, row, column]
    x, y = output.offsets[0][0, :, row, column] + torch.tensor([column, row])
    box = torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2)) * 4 / 2
    assert torch.allclose(found.boxes[0], box, atol=1e-4)


def test_images_of_any_size_are_not_padded() -> None:
    torch.manual_seed(0)
    built = build(small()).eval()
    batch = {"pixels": torch.randn(1, 3, 61, 93), "image_sizes": [(61, 93)]}
    heat = local_maxima(built(batch["pixels"]).heatmaps[0].detach(), 3)
    assert torch.equal(built.predict(batch)[0].scores, heat.flatten().topk(10).values)


@pytest.mark.parametrize("least", [0.3, 0.7])
def test_corners_within_the_radius_keep_the_overlap(least: float) -> None:
    for height, width in ((10.0, 30.0), (20.0, 20.0), (3.0, 50.0)):
        r = gaussian_radius(height, width, least)
        box = torch.tensor([0.0, 0, width, height])
        moved = torch.tensor([[r, r, width + r, height + r], [r, r, width - r, height - r]])
        moved = torch.cat((moved, torch.tensor([[-r, -r, width + r, height + r]])))
        overlaps = iou(box.expand(3, 4), moved)
        assert math.isclose(float(overlaps.min()), least, abs_tol=1e-4)


def test_a_gaussian_is_cut_at_the_sides_and_keeps_the_larger_value() -> None:
    heatmap = torch.zeros(6, 8)
    heatmap[2, 2] = 0.9
    draw_gaussian(heatmap, 1, 2, 2)
    sigma = 5 / 6
    assert heatmap[2, 1] == 1 and heatmap[2, 2] == 0.9 and not heatmap[5].any()
    assert math.isclose(heatmap[0, 0], math.exp(-5 / (2 * sigma**2)), rel_tol=1e-5)
    assert not heatmap[:, 4:].any()
    assert local_maxima(heatmap[None, None])[0, 0].nonzero().tolist() == [[2, 1]]


def cells() -> list[tuple[float, float, int, tuple[float, float]]]:
    """(x, y, stride, range) of all cells of the small model's levels."""
    found = []
    for stride, limits in zip(STRIDES, ((0, 40), (30, 1e8)), strict=True):
        for row in range(64 // stride):
            for column in range(96 // stride):
                found.append(((column + 0.5) * stride, (row + 0.5) * stride, stride, limits))
    return found


def plain_targets() -> tuple[Tensor, dict[int, Tensor]]:
    """Heatmaps [S, C], and the distances in strides of positive cells."""
    heat, sides = torch.zeros(len(cells()), 3), {}
    for index, (x, y, stride, (low, high)) in enumerate(cells()):
        nearest = math.inf
        for (x0, y0, x1, y1), label in zip(
            TARGET["boxes"].tolist(), TARGET["labels"].tolist(), strict=True
        ):
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            px, py = (int(c / stride) * stride + stride / 2 for c in (cx, cy))
            away = 0.0 if (x, y) == (px, py) else (x - cx) ** 2 + (y - cy) ** 2
            away /= max((0.2 / 1.8) ** 2 * 2 * (x1 - x0) * (y1 - y0), 16)
            value = math.exp(-away)
            heat[index, label] = max(float(heat[index, label]), value if value >= 1e-4 else 0)
            extent = math.hypot(x1 - x0, y1 - y0) / 2
            near = abs(x - px) <= stride and abs(y - py) <= stride and low <= extent <= high
            if near and x0 < x < x1 and y0 < y < y1 and away < nearest:
                nearest = away
                sides[index] = torch.tensor([x - x0, y - y0, x1 - x, y1 - y]) / stride
    return heat, sides


def test_targets_of_the_update_equal_their_rules() -> None:
    torch.manual_seed(0)
    built = build(model("centernet-update"))
    output = built(torch.randn(1, 3, 64, 96))
    head = built.bbox_head
    points = [(each[:, :2] + each[:, 2:]) / 2 for each in head.anchors(output.logits)]
    heat, goal = head.wanted(cells_of(points, STRIDES, head.ranges), TARGET)
    expected, sides = plain_targets()
    assert torch.allclose(heat, expected, atol=1e-5)
    assert (goal.amax(1) >= 0).nonzero()[:, 0].tolist() == sorted(sides)
    for index, each in sides.items():
        assert torch.allclose(goal[index], each, atol=1e-5)
    losses = head.loss(output, [TARGET], ImageSizes([(64, 96)], [(64, 96)]))
    rows = head.joined(output)[1][0]
    total = torch.stack(
        [1 - giou(box(points, k, rows[k]), box(points, k, sides[k])) for k in sides]
    )
    assert torch.allclose(losses["loss_bbox"], 2 * total.mean(), rtol=1e-4)


def box(points: list[Tensor], index: int, sides: Tensor) -> Tensor:
    point = torch.cat(points)[index]
    return torch.cat((point - sides[:2], point + sides[2:]))


def test_good_cells_beside_a_center_are_positive() -> None:
    built = build(model("centernet-update"))
    head, shapes = built.bbox_head, [(8, 12), (4, 6)]
    rows, one = torch.zeros(8 * 12 + 4 * 6, 4), {k: v[:1] for k, v in TARGET.items()}
    center = 2 * 12 + 3  # of (24.5, 19) on the first level
    found, labels = head.more_positives(shapes, one, rows)
    assert found.tolist() == [center] and labels.tolist() == [0]
    x, y = 3.5 * 8 + 8, 2.5 * 8  # the cell to the right predicts the box
    rows[center + 1] = torch.tensor([x - 8, y - 8, 41 - x, 30 - y]) / 8
    found, _ = head.more_positives(shapes, one, rows)
    assert found.tolist() == [center, center + 1]
    assert head.more_positives(shapes, NOTHING, rows)[0].shape == (0,)
