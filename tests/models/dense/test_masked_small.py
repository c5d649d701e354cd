"""Small detectors of one stage with boxes and masks: training, prediction and export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from masked_small import FAMILIES

from cupola.models.detector import Detector
from cupola.registry import MODELS, build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from cupola.runtime.tasks import task_of

NOTHING = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "masks": torch.zeros(0, 64, 96, dtype=torch.bool),
}


def objects() -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]])
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return {"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks}


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_losses(family: str) -> None:
    torch.manual_seed(0)
    config, expected = FAMILIES[family]
    built: Any = build(config)
    batch = {"pixels": torch.rand(2, 3, 64, 96) * 255, "targets": [objects(), NOTHING]}
    optimizer = torch.optim.Adam(built.parameters(), 2e-3)
    totals = []
    for step in range(8):
        built.mask_head.iteration = step + 1
        losses = built.loss(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == expected
    assert all(value > 0 for value in losses.values())
    assert totals[-1].item() < 0.97 * totals[0].item()


@pytest.mark.parametrize("family", FAMILIES)
def test_images_without_objects_have_no_loss_of_boxes_and_masks(family: str) -> None:
    losses = build(FAMILIES[family][0]).loss(
        {"pixels": torch.randn(1, 3, 64, 96), "targets": [NOTHING]}
    )
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_cls"] > 0 and not losses["loss_bbox"]


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_several_sizes_in_one_batch(family: str) -> None:
    torch.manual_seed(0)
    built: Any = build(FAMILIES[family][0]).eval()
    pixels = torch.randn(2, 3, 64, 96)
    pixels[1, :, 48:], pixels[1, :, :, 64:] = 0, 0
    inputs: dict[str, Any] = {
        "pixels": pixels,
        "image_sizes": [(64, 96), (48, 64)],
        "scale_factors": [(2.0, 2.0), (0.5, 0.5)],
        "original_sizes": [(32, 48), (96, 128)],
    }
    found = built.predict(inputs)
    for each, (height, width) in zip(found, inputs["original_sizes"], strict=True):
        assert len(each) == 10 and (each.scores.diff() <= 0).all()
        assert each.masks.shape == (10, height, width) and each.masks.dtype == torch.bool
        limit = torch.tensor([width, height, width, height]) + 1e-3
        assert (each.boxes >= 0).all() and (each.boxes <= limit).all()
    alone = built.predict({"pixels": pixels[:1], "image_sizes": [(64, 96)]})[0]
    assert torch.allclose(alone.boxes / 2, found[0].boxes, atol=1e-3)
    assert torch.allclose(alone.scores, found[0].scores, atol=1e-5)
    assert alone.masks is not None and alone.masks.shape == (10, 64, 96)


def test_every_detector_has_a_task() -> None:
    kinds = {name: MODELS.get(name) for name in MODELS.names()}
    names = [
        n for n, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Detector)
    ]
    assert {"YOLACT", "CondInst", "FasterRCNN", "SOLO"} <= set(names)
    assert not [name for name in names if task_of(MODELS.get(name)) is None]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_program_has_all_parts_of_masks(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built: Any = build(FAMILIES[family][0]).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [96, 160]}}}, ())
    export(program(predictor, (96, 160)), tmp_path / "m.pt2", "torch")
    height, width = (96, 160) if getattr(built, "fixed_axes", ()) else (128, 192)
    pixels = torch.randn(1, 3, height, width)
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    found = torch.export.load(tmp_path / "m.pt2").module()(pixels, mask)
    for ours, expected in zip(found, built.exported(pixels), strict=True):
        assert torch.allclose(ours, expected, atol=1e-2)
