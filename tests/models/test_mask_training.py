"""MaskFormer and Mask2Former train on the masks of four images of digits-in-photos."""

from typing import Any

import pytest
import torch

from cupola.registry import DATASETS, METRICS, build
from cupola.train.steps import to_device
from golden import golden


def model_config(case: str) -> dict[str, Any]:
    """A golden's model, wider, for ten digits, with batch norms that are trained."""
    cfg: dict[str, Any] = golden("masks_mmdet").json["cases"][case]["model"]
    head = dict(cfg["panoptic_head"])
    loss_cls = {**head["loss_cls"], "class_weight": [1.0] * 10 + [0.1]}
    counts = {"num_things_classes": 10, "num_stuff_classes": 0}
    channels = [16, 32, 64, 128]
    head |= {**counts, "loss_cls": loss_cls, "num_queries": 20, "in_channels": channels}
    backbone = {
        **cfg["backbone"],
        "base_channels": 16,
        "norm_eval": False,
        "norm_cfg": {"type": "BN"},
    }
    return {
        **cfg,
        "backbone": backbone,
        "panoptic_head": head,
        "panoptic_fusion_head": {"type": "MaskFormerFusionHead", **counts},
        "test_cfg": {"panoptic_on": False, "instance_on": True, "max_per_image": 40},
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a loaded machine
@pytest.mark.parametrize(
    ("case", "steps", "precision"),
    [("maskformer_resnet", 40, 0.0), ("mask2former_resnet_panoptic", 100, 0.5)],
)
def test_training_improves(case: str, steps: int, precision: float) -> None:
    """The loss falls; Mask2Former, which learns faster, also finds the masks again."""
    torch.manual_seed(0)
    model = build(model_config(case))
    digits = {"type": "DigitsInPhotos", "count": 4, "size": 64, "with_mask": True}
    dataset = DATASETS.build({**digits, "split": "train", "seed": 0, "style": {"most": 4}})
    batch = to_device(dataset.collate([dataset[i] for i in range(4)]), torch.device("cpu"))
    optimizer = torch.optim.AdamW(list(model.parameters()), lr=2e-3)
    totals = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        total = sum(model.loss(batch).values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-5:]) / 5 < 0.6 * totals[0]
    metric = METRICS.build({"type": "CocoMetric", "metric": ["bbox", "segm"]})
    metric.update(batch, model.eval().predict(batch))
    assert metric.compute()["mask_AP50"] >= precision
