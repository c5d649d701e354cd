"""Deformable DETR, DINO and DDQ DETR learn: small models on digits-in-photos."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.data.detection import collate_detection
from cupola.registry import DATASETS, build
from cupola.train.recipe import train_recipe
from models.deformable_detr.small import ddq_config, deformable_config, dino_config

CONFIGS = {
    "deformable": deformable_config(True, True, queries=12, classes=10),
    "dino": dino_config(queries=12, classes=10),
    "ddq": ddq_config(queries=12, classes=10),
}


def digits(split: str, start: int, count: int) -> dict[str, Any]:
    dataset = DATASETS.build(
        {"type": "DigitsInPhotos", "split": split, "seed": 0, "count": 10_000, "size": 64}
    )
    return collate_detection([dataset[i] for i in range(start, start + count)])


def validation_loss(model: Any, batch: dict[str, Any]) -> float:
    model.eval()
    with torch.no_grad():
        losses = model.loss(batch)
    return float(losses["loss_bbox"] + losses["loss_iou"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_boxes_of_unseen_images_get_better(name: str) -> None:
    torch.manual_seed(0)
    model, unseen = build(CONFIGS[name]), digits("val", 0, 16)
    before = validation_loss(model, unseen)
    optimizer = torch.optim.AdamW(list(model.parameters()), lr=2e-3)
    model.train()
    for step in range(120):
        optimizer.zero_grad()
        sum(model.loss(digits("train", 8 * step, 8)).values()).backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 0.5)
        optimizer.step()
    assert validation_loss(model, unseen) < 0.85 * before


@pytest.mark.slow
def test_the_recipe_of_dino_digits_runs(tmp_path: Path) -> None:
    overrides = [
        "train_cfg.max_iters=3",
        "train_cfg.val_interval=0",
        "train_dataloader.batch_size=4",
    ]
    overrides += ["default_hooks.logger.interval=1", "val_dataloader.dataset.count=4"]
    train_recipe("dino-digits", work_dir=tmp_path, overrides=overrides, resume=False, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 3
    assert {"dn_loss_cls", "enc_loss_bbox", "d0.loss_iou"} <= steps[0].keys()
