"""The losses of StreamPETR's 2-D head against a literal computation, and their truth."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from cupola.data.driving import camera_rig
from cupola.models.stream_petr.camera_targets import CameraTargets, camera_targets
from cupola.registry import build
from cupola.structures import boxes3d
from models.stream_petr.small import drive, small_stream

SIZE = (64, 96)
# As published, with 3 classes.
ROI = {
    "type": "FocalHead",
    "num_classes": 3,
    "in_channels": 32,
    "embed_dims": 32,
    "loss_cls2d": {
        "type": "QualityFocalLoss",
        "use_sigmoid": True,
        "beta": 2.0,
        "loss_weight": 2.0,
    },
    "loss_centerness": {"type": "GaussianFocalLoss", "reduction": "mean", "loss_weight": 1.0},
    "loss_bbox2d": {"type": "L1Loss", "loss_weight": 5.0},
    "loss_iou2d": {"type": "GIoULoss", "loss_weight": 2.0},
    "loss_centers2d": {"type": "L1Loss", "loss_weight": 10.0},
    "train_cfg": {
        "assigner2d": {
            "type": "HungarianAssigner2D",
            "cls_cost": {"type": "FocalLossCost", "weight": 2.0},
            "reg_cost": {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
            "iou_cost": {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
            "centers2d_cost": {"type": "BBox3DL1Cost", "weight": 10.0},
        }
    },
}


def truth() -> list[CameraTargets]:
    first = CameraTargets(
        torch.tensor([[10.0, 12, 40, 50], [50, 5, 90, 30]]),
        torch.tensor([2, 0]),
        torch.tensor([[22.0, 30], [70, 20]]),
    )
    empty = CameraTargets(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 2))
    last = CameraTargets(
        torch.tensor([[0.0, 0, 96, 64]]), torch.tensor([1]), torch.tensor([[96.0, 64.0]])
    )
    return [first, empty, last]


def giou(a: list[float], b: list[float]) -> tuple[float, float]:
    """IoU and generalized IoU of two boxes in pixels."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union, both / union - (hull - union) / hull


def literal(found: dict[str, np.ndarray], targets: list[CameraTargets]) -> dict[str, float]:
    """The five losses number by number, as the original's formulas say."""
    side = np.array([SIZE[1], SIZE[0]], float)
    totals = dict.fromkeys(("cls", "bbox", "iou", "centers", "centerness"), 0.0)
    positives = 0
    for image, target in enumerate(targets):
        scores = 1 / (1 + np.exp(-found["logits"][image]))
        middle, extent = found["boxes"][image, :, :2], found["boxes"][image, :, 2:]
        boxes = np.concatenate((middle - extent / 2, middle + extent / 2), 1) * np.tile(side, 2)
        quality = np.zeros_like(scores)
        cost = np.zeros((len(scores), len(target.labels)))
        for j in range(len(target.labels)):
            box, center = target.boxes[j].double().numpy(), target.centers[j].double().numpy()
            code = np.concatenate(((box[:2] + box[2:]) / 2, box[2:] - box[:2])) / np.tile(side, 2)
            for q in range(len(scores)):
                p = scores[q, int(target.labels[j])]
                hit = -math.log(p + 1e-12) * 0.25 * (1 - p) ** 2
                miss = -math.log(1 - p + 1e-12) * 0.75 * p**2
                cost[q, j] = (
                    2 * (hit - miss)
                    + 5 * np.abs(found["boxes"][image, q] - code).sum()
                    - 2 * giou(boxes[q], box)[1]
                    + 10 * np.abs(found["centers"][image, q] - center / side).sum()
                )
        for q, j in zip(*linear_sum_assignment(cost), strict=True):
            positives += 1
            box, center = target.boxes[j].double().numpy(), target.centers[j].double().numpy()
            code = np.concatenate(((box[:2] + box[2:]) / 2, box[2:] - box[:2])) / np.tile(side, 2)
            overlap, general = giou(boxes[q], box)
            quality[q, int(target.labels[j])] = overlap
            totals["bbox"] += 5 * np.abs(found["boxes"][image, q] - code).sum()
            totals["iou"] += 2 * (1 - general)
            totals["centers"] += 10 * np.abs(found["centers"][image, q] - center / side).sum()
        entropy = -(quality * np.log(scores) + (1 - quality) * np.log(1 - scores))
        totals["cls"] += 2 * (entropy * (quality - scores) ** 2).sum()
        heat = np.zeros((SIZE[0] // 16, SIZE[1] // 16))
        for box, center in zip(target.boxes.tolist(), target.centers.tolist(), strict=True):
            near = min(
                center[0] - box[0], center[1] - box[1], box[2] - center[0], box[3] - center[1]
            )
            radius = max(1, math.ceil(near / 16))
            x, y = int(center[0] / 16), int(center[1] / 16)
            for row in range(heat.shape[0]):
                for column in range(heat.shape[1]):
                    if max(abs(row - y), abs(column - x)) <= radius:
                        away = (row - y) ** 2 + (column - x) ** 2
                        value = math.exp(-away / (2 * ((2 * radius + 1) / 6) ** 2))
                        heat[row, column] = max(heat[row, column], value)
        c = np.clip(1 / (1 + np.exp(-found["centerness"][image, :, 0])), 1e-4, 1 - 1e-4)
        heat = heat.reshape(-1)
        hit = -np.log(c + 1e-12) * (1 - c) ** 2 * (heat == 1)
        miss = -np.log(1 - c + 1e-12) * c**2 * (1 - heat) ** 4
        totals["centerness"] += (hit + miss).sum()
    return {name: total / positives for name, total in totals.items()}


def test_losses_equal_a_literal_computation() -> None:
    torch.manual_seed(0)
    head = build(ROI).double()
    features = torch.randn(1, 3, 32, 4, 6).double()
    where = torch.stack(torch.meshgrid(
        (torch.arange(6) * 16 + 8.0) / 96, (torch.arange(4) * 16 + 8.0) / 64, indexing="xy"
    ), -1).double()  # fmt: skip
    output = head(features, where)
    targets = [CameraTargets(t.boxes.double(), t.labels, t.centers.double()) for t in truth()]
    losses = head.loss(output, targets, SIZE)
    found = {name: value.detach().numpy() for name, value in output._asdict().items()}
    expected = literal(found, targets)
    assert list(losses) == ["enc_loss_cls", "enc_loss_bbox", "enc_loss_iou", "centers2d_losses",
                            "centerness_losses"]  # fmt: skip
    for value, wanted in zip(losses.values(), expected.values(), strict=True):
        assert value.item() == pytest.approx(wanted, rel=1e-6)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_frames_without_objects_have_losses() -> None:
    head = build(ROI)
    output = head(torch.randn(1, 1, 32, 4, 6), torch.rand(4, 6, 2))
    losses = head.loss(output, truth()[1:2], SIZE)
    assert all(value.isfinite() for value in losses.values())
    assert losses["enc_loss_bbox"].item() == 0 < losses["enc_loss_cls"].item()


def test_what_cameras_see() -> None:
    matrices = torch.stack([torch.from_numpy(c.lidar2img).float() for c in camera_rig(SIZE)])
    ahead = [0.0, 12, -1, 2, 4, 2, 0.3, 0, 0]  # the lidar looks along y
    hidden, behind = [0.0, 30, -0.8, 0.5, 0.5, 0.5, 0, 0, 0], [0.0, -9, -1, 1, 1, 2, 0, 0, 0]
    boxes = torch.tensor([hidden, ahead, behind])
    target = {"boxes": boxes, "labels": torch.tensor([0, 1, 2])}
    views = camera_targets([target], matrices[None], SIZE)
    assert len(views) == 6
    seen = {int(label): n for n, view in enumerate(views) for label in view.labels}
    assert 1 in seen and 2 in seen and 0 not in seen and seen[1] != seen[2]
    view = views[seen[1]]
    at = view.labels.tolist().index(1)
    points = boxes3d.corners(boxes3d.bottom_to_center(boxes[1:2]))[0]
    uv, _ = boxes3d.project(points, matrices[seen[1]])
    low, high = uv.amin(0), uv.amax(0)
    limit = torch.tensor([96.0, 64.0])
    expected = torch.cat((low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)))
    torch.testing.assert_close(view.boxes[at], expected)
    empty = camera_targets([{"boxes": torch.zeros(0, 9), "labels": torch.zeros(0).long()}],
                           matrices[None], SIZE)  # fmt: skip
    assert all(len(view.labels) == 0 for view in empty)


def test_a_stream_has_the_losses_in_training() -> None:
    torch.manual_seed(0)
    model = build({**small_stream(), "img_roi_head": {**ROI, "in_channels": 16}})
    frame = drive(1)[0]
    losses = model.train().loss(frame)
    assert {"enc_loss_cls", "centers2d_losses", "dn_loss_cls", "loss_bbox"} <= losses.keys()
    sum(losses.values()).backward()
    assert float(model.img_roi_head.ltrb.weight.grad.abs().sum()) > 0


def test_a_head_without_losses_says_what_is_missing() -> None:
    head = build({"type": "FocalHead", "num_classes": 3, "in_channels": 32, "embed_dims": 32})
    output = head(torch.randn(1, 3, 32, 4, 6), torch.rand(4, 6, 2))
    with pytest.raises(ValueError, match=r"give it loss_cls2d, .*train_cfg=dict\(assigner2d"):
        head.loss(output, truth(), SIZE)
