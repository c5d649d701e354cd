"""RepDETR3D's 2-D head against the original's formulas, written number by number."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from cupola.errors import BuildError
from cupola.models.stream_petr.camera_targets import CameraTargets
from cupola.registry import build
from models.stream_petr.small import small_stream

SIZE = (64, 96)
STRIDES = (8, 16)
HEAD = {
    "type": "YOLOXHeadCustom",
    "num_classes": 3,
    "in_channels": 16,
    "feat_channels": 16,
    "strides": list(STRIDES),
    "train_cfg": {"assigner": {"type": "SimOTAAssigner", "center_radius": 2.5}},
    "test_cfg": {"score_thr": 0.01, "nms": {"type": "nms", "iou_threshold": 0.65}},
}


def levels(cameras: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, cameras, 16, SIZE[0] // s, SIZE[1] // s) for s in STRIDES]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def truth() -> list[CameraTargets]:
    boxes = torch.tensor([[10.0, 12.0, 40.0, 44.0], [50.0, 20.0, 90.0, 60.0]])
    middle = torch.tensor([[24.0, 30.0], [72.0, 38.0]])
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 2)
    return [CameraTargets(boxes, torch.tensor([2, 0]), middle), CameraTargets(*nothing)]


def overlap(a: Any, b: Any) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union


def entropy(logit: float, goal: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(goal * math.log(p) + (1 - goal) * math.log(1 - p))


def literal(head: Any, given: list[torch.Tensor]) -> dict[str, float]:
    """The losses cell by cell; which cells are positive is SimOTA's and tested elsewhere."""
    maps = [level.flatten(0, 1) for level in given]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("cls", "reg", "obj", "centers2d")}
    cells = []
    for i, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        towers = head.multi_level_cls_convs[i](x), head.multi_level_reg_convs[i](x)
        for name, found in rows.items():
            conv = getattr(head, f"multi_level_conv_{name}")[i]
            made = conv(towers[0] if name == "cls" else towers[1])
            found.append(made.detach().double().flatten(2).transpose(1, 2).numpy())
        h, w = x.shape[-2:]
        cells += [(c * stride, r * stride, stride) for r in range(h) for c in range(w)]
    logits, boxes, objects, places = (np.concatenate(each, 1) for each in rows.values())
    (target, _), owners = truth(), positives(head, given)
    totals = dict.fromkeys(("cls", "iou", "obj", "bbox", "centers2d"), 0.0)
    for image in range(len(logits)):
        for cell, (x, y, stride) in enumerate(cells):
            owner = owners[image, cell]
            totals["obj"] += entropy(objects[image, cell, 0], float(owner >= 0))
            if owner < 0:
                continue
            box, center = target.boxes[owner].tolist(), target.centers[owner].tolist()
            dx, dy, w, h = boxes[image, cell]
            middle = x + dx * stride, y + dy * stride
            sides = math.exp(w) * stride, math.exp(h) * stride
            found = [
                m + sign * s / 2 for sign in (-1, 1) for m, s in zip(middle, sides, strict=True)
            ]
            shared = overlap(found, box)
            totals["iou"] += 5 * (1 - shared**2)
            for c in range(3):
                goal = shared if c == int(target.labels[owner]) else 0.0
                totals["cls"] += entropy(logits[image, cell, c], goal)
            wanted = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
            code = [(wanted[0] - x) / stride, (wanted[1] - y) / stride]
            code += [math.log((box[k + 2] - box[k]) / stride + 1e-8) for k in (0, 1)]
            totals["bbox"] += np.abs(boxes[image, cell] - code).sum()
            seen = [(center[0] - x) / stride, (center[1] - y) / stride]
            totals["centers2d"] += np.abs(places[image, cell] - seen).sum()
    return {name: value / max((owners >= 0).sum(), 1) for name, value in totals.items()}


def positives(head: Any, given: list[torch.Tensor]) -> np.ndarray:
    from cupola.models.dense.targets import PaddedTargets

    maps = [level.flatten(0, 1) for level in given]
    objects = PaddedTargets.of([each._asdict() for each in truth()], maps[0])
    wanted = head.match(head(maps), objects).wanted
    owners = np.full(wanted.positive.shape, -1)
    owners[wanted.positive.numpy()] = wanted.objects.numpy()
    return owners


def test_the_losses_are_the_originals() -> None:
    torch.manual_seed(0)
    head = build(HEAD).eval()
    for conv in head.multi_level_conv_reg:
        torch.nn.init.constant_(conv.bias, 1.0)  # boxes of a size that several cells match
    given = levels()
    with torch.no_grad():
        found = head.camera_losses(given, truth(), SIZE)
    assert (positives(head, given) >= 0).sum() > 2
    expected = literal(head, given)
    assert found.keys() == {f"enc_loss_{name}" for name in expected}
    for name, value in expected.items():
        assert float(found[f"enc_loss_{name}"]) == pytest.approx(value, rel=1e-4), name


def test_its_parameters_are_the_originals() -> None:
    keys = list(build(HEAD).state_dict())
    kinds = list(dict.fromkeys(key.split(".")[0].removeprefix("multi_level_") for key in keys))
    assert kinds == ["cls_convs", "reg_convs", "conv_cls", "conv_reg", "conv_obj", "conv_centers2d"]
    assert "multi_level_reg_convs.1.1.bn.running_var" in keys


def test_cameras_without_objects_have_losses_with_gradients() -> None:
    head = build(HEAD).train()
    empty = truth()[1]
    losses = head.camera_losses(levels(), [empty, empty], SIZE)
    assert all(float(loss.detach()) == 0 for name, loss in losses.items() if name[9:] != "obj")
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert int(head.multi_level_reg_convs[0][0].bn.num_batches_tracked) == 1


def test_another_head_is_refused() -> None:
    with pytest.raises(BuildError, match="img_roi_head is a FPN, expected FocalHead or YOLOX"):
        build({**small_stream(), "img_roi_head": {"type": "FPN", "in_channels": [8],
                                                  "out_channels": 8, "num_outs": 1}})  # fmt: skip
