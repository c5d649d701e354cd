"""DETR3D against plain loops over samples, cameras, queries and levels: cases without a golden.

The reference follows the original's statements one by one, in float64 and without any of our
functions: several samples, other numbers of cameras and points, images of different sizes, NaN,
samples without objects, objects without a velocity or a side.
"""

import math
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cupola.models.detr3d.feature_sampling import Cameras, Pyramid, gather_dense
from cupola.registry import build
from models.detr3d.small import PC_RANGE, small_batch, small_config

SIZES = torch.tensor([[64.0, 96.0], [48.0, 80.0]], dtype=torch.float64)


def plain_pixel(level: Tensor, row: float, column: float) -> Tensor:
    """One bilinear sample of a map [C, h, w]; zero outside, NaN as 0."""
    total = torch.zeros(len(level), dtype=level.dtype)
    top, left = math.floor(row), math.floor(column)
    for r, wr in ((top, top + 1 - row), (top + 1, row - top)):
        for c, wc in ((left, left + 1 - column), (left + 1, column - left)):
            if 0 <= r < level.shape[1] and 0 <= c < level.shape[2]:
                total = total + wr * wc * level[:, r, c]
    return torch.nan_to_num(total)


def plain_look(
    levels: tuple[Tensor, ...], points: Tensor, matrices: Tensor, size: Tensor, weights: Tensor
) -> Tensor:
    """points [B, Q, 3], matrices [B, N, 4, 4], weights [B, N, Q, L] -> [B, Q, C]."""
    B, N, Q, L = weights.shape
    out = torch.zeros(B, Q, levels[0].shape[2], dtype=torch.float64)
    for b, n, q in [(b, n, q) for b in range(B) for n in range(N) for q in range(Q)]:
        u, v, depth, _ = (
            matrices[b, n] @ torch.cat((points[b, q], torch.ones(1).double()))
        ).tolist()
        u, v = u / max(depth, 1e-5) / size[b, 1].item(), v / max(depth, 1e-5) / size[b, 0].item()
        if not (depth > 1e-5 and 0 < u < 1 and 0 < v < 1):
            continue
        for level in range(L):
            h, w = levels[level].shape[-2:]
            found = plain_pixel(levels[level][b, n], v * h - 0.5, u * w - 0.5)
            out[b, q] += weights[b, n, q, level] * found
    return out


def scene(cameras: int) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """Levels, points, matrices and weights of two samples, float64."""
    generator = torch.Generator().manual_seed(cameras)
    shapes = ((9, 13), (5, 7), (2, 3))
    levels = tuple(
        torch.randn(2, cameras, 4, *shape, generator=generator).double() for shape in shapes
    )
    points = (torch.rand(2, 40, 3, generator=generator).double() - 0.5) * 30
    matrices = small_batch(2, cameras)["lidar2img"].double()
    matrices[1] = matrices[1] * torch.tensor([0.8, 0.75, 1, 1]).double()[:, None]
    return levels, points, matrices, torch.rand(2, cameras, 40, 3, generator=generator).double()


@pytest.mark.parametrize("cameras", [1, 3, 6, 8])
def test_cross_attention_by_plain_loops(cameras: int) -> None:
    levels, points, matrices, weights = scene(cameras)
    expected = plain_look(levels, points, matrices, SIZES, weights)
    assert expected.any()
    projection = Cameras(matrices, SIZES).project(points)
    torch.testing.assert_close(Pyramid(levels).gather(projection, weights), expected)
    torch.testing.assert_close(gather_dense(levels, projection, weights), expected)


def test_non_finite_features_and_matrices_count_as_zero() -> None:
    levels, points, matrices, weights = scene(6)
    levels[0][0, 0, 1] = math.nan
    matrices[1, 3, 0, 2] = math.nan
    expected = plain_look(levels, points, matrices, SIZES, weights)
    projection = Cameras(matrices, SIZES).project(points)
    found = Pyramid(levels).gather(projection, weights)
    assert found.isfinite().all() and found[0, :, 1].any()
    torch.testing.assert_close(found, expected)


def test_the_size_of_the_first_sample_is_used_for_all() -> None:
    model = build(small_config()).eval()
    batch = small_batch(samples=2)
    pair = torch.tensor([[64, 96], [48, 80]])
    with torch.no_grad():
        output = model(batch["pixels"], batch["lidar2img"], pair)
        alike = model(batch["pixels"], batch["lidar2img"], (64, 96))
        doubles = model(batch["pixels"], batch["lidar2img"].double(), (64, 96))
    assert torch.equal(output.boxes, alike.boxes)
    torch.testing.assert_close(doubles.boxes, alike.boxes)


# ---- targets and losses


def plain_code(box: list[float]) -> list[float]:
    x, y, z, length, width, height, yaw, vx, vy = box
    logs = [math.log(side) if side > 0 else -math.inf for side in (length, width, height)]
    middle = z + height / 2
    return [x, y, logs[0], logs[1], middle, logs[2], math.sin(yaw), math.cos(yaw), vx, vy]


def plain_focal(logits: Tensor, label: int | None) -> float:
    total = 0.0
    for c, logit in enumerate(logits.tolist()):
        p = 1 / (1 + math.exp(-logit))
        if c == label:
            total += -0.25 * (1 - p) ** 2 * math.log(p)
        else:
            total += -0.75 * p**2 * math.log(1 - p)
    return total


def plain_cost(logit: float, code: Tensor, wanted: list[float]) -> float:
    p = 1 / (1 + math.exp(-logit))
    positive = -math.log(p + 1e-12) * 0.25 * (1 - p) ** 2
    negative = -math.log(1 - p + 1e-12) * 0.75 * p**2
    distance = sum(abs(a - b) for a, b in zip(code.tolist()[:8], wanted[:8], strict=True))
    return 2.0 * (positive - negative) + 0.25 * distance


def plain_losses(logits: Tensor, codes: Tensor, targets: list[dict[str, Tensor]]) -> list[float]:
    """Focal and L1 loss of one layer: logits [B, Q, C], codes [B, Q, 10]."""
    classes = boxes = 0.0
    positives = 0
    for b, target in enumerate(targets):
        wanted = [plain_code(box) for box in target["boxes"].tolist()]
        labels = target["labels"].tolist()
        match: dict[int, int] = {}
        if wanted:
            costs = [
                [plain_cost(logits[b, q, labels[m]].item(), codes[b, q], wanted[m])
                 for m in range(len(wanted))]
                for q in range(logits.shape[1])
            ]  # fmt: skip
            match = dict(zip(*(i.tolist() for i in linear_sum_assignment(costs)), strict=True))
        positives += len(match)
        for q in range(logits.shape[1]):
            classes += plain_focal(logits[b, q], labels[match[q]] if q in match else None)
        for q, m in match.items():
            if all(map(math.isfinite, wanted[m])):
                scale = [1.0] * 8 + [0.2] * 2
                pairs = zip(codes[b, q].tolist(), wanted[m], scale, strict=True)
                boxes += sum(abs(a - w) * s for a, w, s in pairs)
    return [2.0 * classes / max(positives, 1), 0.25 * boxes / max(positives, 1)]


def targets() -> list[dict[str, Tensor]]:
    """Three samples: four objects, one with an unknown velocity; none; one."""
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(5, 9, generator=generator).double() * 4 + 0.5
    boxes[:, :2] = boxes[:, :2] * 10 - 25
    boxes[2, 7:] = math.nan
    labels = torch.tensor([0, 2, 1, 1, 2])
    none = {"boxes": torch.zeros(0, 9).double(), "labels": torch.zeros(0, dtype=torch.long)}
    return [
        {"boxes": boxes[:4], "labels": labels[:4]},
        none,
        {"boxes": boxes[4:], "labels": labels[4:]},
    ]


@pytest.fixture
def output() -> tuple[Any, Any]:
    """A model in float64 and its output for three samples."""
    torch.manual_seed(0)
    model = build(small_config()).eval().double()
    batch = small_batch(samples=3)
    with torch.no_grad():
        for parameter in model.pts_bbox_head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.pts_bbox_head.code_weights.copy_(torch.tensor([1.0] * 8 + [0.2] * 2))
        found = model(batch["pixels"].double(), batch["lidar2img"].double(), batch["image_size"])
    return model, found


def test_losses_of_several_samples(output) -> None:
    model, found = output
    losses = model.pts_bbox_head.loss(found, targets())
    for layer, prefix in enumerate(("d0.", "")):
        expected = plain_losses(found.logits[layer], found.boxes[layer], targets())
        assert losses[f"{prefix}loss_cls"].item() == pytest.approx(expected[0], rel=1e-6)
        assert losses[f"{prefix}loss_bbox"].item() == pytest.approx(expected[1], rel=1e-6)


def test_a_box_with_a_zero_side_is_reported_and_skipped(output) -> None:
    model, found = output
    flat = targets()
    flat[0]["boxes"] = flat[0]["boxes"].clone()
    flat[0]["boxes"][1, 4] = 0.0
    with pytest.warns(UserWarning, match=r"sample 0: boxes \[1\] have NaN or a side of 0"):
        losses = model.pts_bbox_head.loss(found, flat)
    rest = targets()
    rest[0] = {key: value[[0, 2, 3]] for key, value in rest[0].items()}
    expected = plain_losses(found.logits[-1], found.boxes[-1], rest)
    assert losses["loss_cls"].item() == pytest.approx(expected[0], rel=1e-6)
    assert losses["loss_bbox"].item() == pytest.approx(expected[1], rel=1e-6)


def test_boxes_are_placed_around_the_point_before_its_step(output) -> None:
    model, found = output
    batch = small_batch(samples=3)
    cameras = model.cameras(batch["lidar2img"], batch["image_size"])
    with torch.no_grad():
        decoded = model.pts_bbox_head.decode(model.extract(batch["pixels"].double()), cameras)
    for layer in range(2):
        step = model.pts_bbox_head.reg_branches[layer](decoded.states[layer])
        for axis, channel in enumerate((0, 1, 4)):
            before = decoded.references[layer][..., axis]
            moved = 1 / (1 + torch.exp(-(torch.log(before / (1 - before)) + step[..., channel])))
            low, high = PC_RANGE[axis], PC_RANGE[axis + 3]
            torch.testing.assert_close(found.boxes[layer][..., channel], moved * (high - low) + low)
            if layer == 0:
                torch.testing.assert_close(decoded.references[1][..., axis], moved)
