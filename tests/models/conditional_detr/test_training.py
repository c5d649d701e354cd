"""Conditional DETR and DAB-DETR learn eight images of digits-in-photos by heart."""

from typing import Any

import pytest
import torch

from cupola.registry import DATASETS, METRICS, build
from models.conditional_detr.small import conditional_config, dab_config


@pytest.mark.slow
@pytest.mark.parametrize("config", [conditional_config, dab_config])
def test_training_improves(config: Any) -> None:
    torch.manual_seed(0)
    cfg = config(64, classes=10, queries=25)
    cfg["backbone"] |= {
        "stem_channels": 24,
        "channels": (32, 48, 64, 64),
        "strides": (2, 2, 1, 2),
    }
    cfg["neck"]["in_channels"] = [64]
    model = build(cfg)
    digits = {"type": "DigitsInPhotos", "split": "train", "seed": 0, "count": 8, "size": 64}
    dataset = DATASETS.build(digits)
    batch = dataset.collate([dataset[i] for i in range(8)])
    optimizer = torch.optim.AdamW(list(model.parameters()), lr=1e-3)

    def precision() -> float:
        metric = METRICS.build({"type": "CocoMetric"})
        metric.update(batch, model.eval().predict(batch))
        return float(metric.compute()["AP50"])

    before = precision()
    model.train()
    for _ in range(250):
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 0.5)
        optimizer.step()
    assert before < 0.1
    assert precision() > 0.6
