"""Small dense detectors: training, prediction, export, and parts against their rules."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dense_small import FAMILIES, model

from cupola.models.dense import ImageSizes
from cupola.models.paa.mixture import two_gaussians
from cupola.models.vfnet.head import star_offset
from cupola.models.yolox import BatchSyncRandomResize
from cupola.registry import build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from cupola.structures.boxes import giou

NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
OBJECTS = {
    "boxes": torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]]),
    "labels": torch.tensor([0, 2]),
}


def trained(built: Any, steps: int = 8) -> tuple[dict[str, Any], float]:
    """The last losses, and their sum over that before training."""
    batch = {"pixels": torch.randn(2, 3, 64, 96), "targets": [OBJECTS, NOTHING]}
    optimizer = torch.optim.Adam(built.parameters(), 2e-3)
    totals = []
    for _ in range(steps):
        losses = built.loss(batch)
        totals.append(sum(value for name, value in losses.items() if "loss" in name))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    return losses, (totals[-1] / totals[0]).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_losses(family: str) -> None:
    torch.manual_seed(0)
    losses, ratio = trained(build(model(family)))
    assert set(losses) == FAMILIES[family][3]
    assert ratio < 0.97


def test_tood_aligns_its_tasks_after_the_first_epochs() -> None:
    torch.manual_seed(0)
    built = build(model("tood"))
    built.bbox_head.epoch = 4
    losses, ratio = trained(built)
    assert ratio < 0.97 and losses["loss_bbox"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_images_without_objects_have_a_class_loss_only(family: str) -> None:
    built = build(model(family))
    losses = built.loss({"pixels": torch.randn(1, 3, 64, 64), "targets": [NOTHING]})
    sum(losses.values()).backward()
    names = {"yolox": "loss_obj", "yolov3": "loss_conf", "ssd": None, "pisa ssd": None}
    names |= {"freeanchor": "negative_bag_loss", "autoassign": "loss_neg"}
    background = names.get(family, "loss_cls")
    losses.pop("loss_loc", None)  # where guided anchors are: nowhere
    assert background is None or losses.pop(background) > 0
    assert not any(losses.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_several_sizes_in_one_batch(family: str) -> None:
    torch.manual_seed(0)
    built = build(model(family)).eval()
    pixels = torch.randn(2, 3, 64, 96)
    pixels[1, :, 48:], pixels[1, :, :, 64:] = 0, 0
    sizes, factors = [(64, 96), (48, 64)], [(2.0, 2.0), (0.5, 0.5)]
    found = built.predict({"pixels": pixels, "image_sizes": sizes, "scale_factors": factors})
    for each in found:
        assert len(each) == 10 or family == "yolox"  # which keeps all that NMS keeps
        assert (each.scores.diff() <= 0).all()
    alone = built.predict({"pixels": pixels[:1], "image_sizes": sizes[:1]})[0]
    assert torch.allclose(alone.boxes / 2, found[0].boxes, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_program_scores_all_boxes(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = build(model(family)).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [96, 160]}}}, ())
    path = tmp_path / "m.pt2"
    export(program(predictor, (96, 160)), path, "torch")
    pixels, mask = torch.randn(1, 3, 128, 192), torch.zeros(1, 128, 192, dtype=torch.bool)
    scores, boxes = torch.export.load(path).module()(pixels, mask)
    expected = built.scored_boxes(pixels)
    assert torch.allclose(scores, expected[0], atol=1e-5)
    assert torch.allclose(boxes, expected[1], atol=1e-2)


def test_lad_trains_with_the_anchors_of_its_teacher() -> None:
    torch.manual_seed(0)
    paa = model("paa")
    head = {**paa["bbox_head"], "type": "LADHead"}
    parts = {"backbone": paa["backbone"], "neck": paa["neck"], "bbox_head": head}
    built: Any = build(
        {**paa, **parts, "type": "LAD", **{f"teacher_{k}": v for k, v in parts.items()}}
    )
    assert not [key for key in built.state_dict() if "teacher" in key]
    batch = {"pixels": torch.randn(2, 3, 64, 96), "targets": [OBJECTS, NOTHING]}
    losses = built.loss(batch)
    teacher, sizes = built.teacher, ImageSizes.of(batch)
    wanted, kept = teacher.head.assignment(teacher(batch["pixels"]), batch["targets"], sizes)
    output = built(batch["pixels"])
    deltas = built.head.joined(output)[1]
    positive = wanted.positive.clone()
    positive[wanted.positive] = kept
    boxes = built.head.bbox_coder.decode(wanted.anchors[kept], deltas[positive])
    each = 1 - giou(boxes, wanted.boxes[kept])
    torch.testing.assert_close(losses["loss_bbox"], each.mean(), rtol=1e-4, atol=1e-5)
    assert set(losses) == {"loss_cls", "loss_bbox", "loss_iou"} and kept.any()


def test_batches_of_yolox_have_a_random_size() -> None:
    torch.manual_seed(0)
    augment = BatchSyncRandomResize((96, 160), interval=2, size_divisor=32)
    batch = {"pixels": torch.randn(1, 3, 64, 96), "targets": [OBJECTS], "image_sizes": [(60, 90)]}
    sizes = [tuple(augment(batch)["pixels"].shape[2:]) for _ in range(8)]
    assert sizes[0::2] == sizes[1::2] and len(set(sizes)) > 1
    assert {h for h, _ in sizes} <= {96, 128, 160}
    found = augment(batch)
    h, w = found["pixels"].shape[2:]
    assert torch.allclose(found["targets"][0]["boxes"][0, 2], torch.tensor(40 * w / 96))
    assert found["image_sizes"] == [(round(60 * h / 64), round(90 * w / 96))]


def test_the_star_has_the_corners_of_the_box() -> None:
    sides = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1) * 8
    offset = star_offset(sides, 0.1, 8).view(9, 2)
    grid = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    points = (offset + torch.tensor(grid)).round(decimals=4).tolist()
    assert points[0] == [-2, -1] and points[8] == [4, 3] and points[4] == [0, 0]
    assert points[5] == [0, 3] and points[1] == [-2, 0]


def test_two_gaussians_separate_two_groups() -> None:
    torch.manual_seed(0)
    values = torch.cat((torch.randn(30) * 0.1 + 1, torch.randn(20) * 0.2 + 5))
    member, density = two_gaussians(values)
    assert member.tolist() == [0] * 30 + [1] * 20
    assert density[:30].argmax() == (values[:30] - values[:30].mean()).abs().argmin()
