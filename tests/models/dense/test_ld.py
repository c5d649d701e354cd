"""Localization distillation: losses by their formula, training, and what is not read."""

from typing import Any

import pytest
import torch
from dense_small import FAMILIES, model

from cupola.models.dense import ImageSizes
from cupola.registry import build

TARGET = {
    "boxes": torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]]),
    "labels": torch.tensor([0, 2]),
}
DISTILL = {"type": "KnowledgeDistillationKLDivLoss", "loss_weight": 0.25, "T": 10}


def small(**settings: Any) -> dict[str, Any]:
    plain = model("gfl")
    head = {**FAMILIES["gfl"][1], "type": "LDHead", "loss_ld": DISTILL}
    kind = "KnowledgeDistillationSingleStageDetector"
    return {**plain, "type": kind, "bbox_head": head, "teacher_config": {"model": plain}} | settings


def test_training_lowers_the_losses_and_leaves_the_teacher() -> None:
    torch.manual_seed(0)
    built = build(small())
    assert not any("teacher" in key for key in built.state_dict())
    before = {key: value.clone() for key, value in built.teacher.state_dict().items()}
    batch = {"pixels": torch.randn(1, 3, 64, 96), "targets": [TARGET]}
    optimizer = torch.optim.Adam(built.parameters(), 2e-3)
    totals = []
    for _ in range(6):
        losses = built.loss(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == {"loss_cls", "loss_bbox", "loss_dfl", "loss_ld"}
    assert totals[-1].item() < 0.95 * totals[0].item()
    assert all(torch.equal(before[k], v) for k, v in built.teacher.state_dict().items())


def test_the_loss_equals_its_formula() -> None:
    torch.manual_seed(0)
    built = build(small())
    head, sizes = built.bbox_head, ImageSizes([(64, 96)], [(64, 96)])
    output = built(torch.randn(1, 3, 64, 96))
    teacher = [torch.randn_like(each) for each in output.boxes]
    found = head.loss_with_teacher(output, teacher, [TARGET], sizes)["loss_ld"]
    positive = head.targets(output, [TARGET], sizes).positive
    logits, rows = head.joined(output)
    goal = torch.cat([each.flatten(2).transpose(1, 2) for each in teacher], 1)
    total = 0.0
    for score, row, wanted in zip(
        logits[positive].sigmoid(), rows[positive], goal[positive], strict=True
    ):
        for side, other in zip(row.view(4, -1), wanted.view(4, -1), strict=True):
            p, q = (other / 10).softmax(0), (side / 10).softmax(0)
            total += 0.25 * 100 * (p * (p / q).log()).mean() * score.max() / 4
    assert torch.allclose(found, total, rtol=1e-4)


def test_the_path_of_a_teacher_is_not_read() -> None:
    built = build(small(teacher_config="configs/gfl/gfl_r101.py")).eval()
    batch = {"pixels": torch.randn(1, 3, 64, 96), "targets": [TARGET]}
    assert len(built.predict({**batch, "image_sizes": [(64, 96)]})[0])
    with pytest.raises(ValueError, match="set it to the teacher's config"):
        built.loss(batch)
