"""Losses, scores and heads of configs with thousands of classes."""

import math
from typing import Any

import pytest
import torch

from cupola.models.losses import CrossEntropyCustomLoss, FocalCustomLoss, FocalLoss
from cupola.registry import MODELS
from models.fcos.small import HEAD

LABELS = torch.tensor([0, 2, 3])  # the last one is background


def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 3)


def test_the_background_has_what_sigmoid_scores_leave() -> None:
    loss = CrossEntropyCustomLoss(num_classes=3, use_sigmoid=True)
    assert loss.channels(3) == 3
    scores = loss.scores(torch.tensor([[0.0, -2, -3], [3, 3, 3]]))
    rest = 1 - sum(1 / (1 + math.exp(-x)) for x in (0.0, -2, -3))
    assert scores[0, 3].item() == pytest.approx(rest, abs=1e-6) and scores[1, 3] == 0
    plain = CrossEntropyCustomLoss(num_classes=3)
    assert plain.channels(3) == 4
    assert torch.equal(plain.scores(logits()), logits().softmax(-1))


def test_losses_and_accuracies() -> None:
    rows = logits()
    loss = CrossEntropyCustomLoss(num_classes=3, use_sigmoid=True)
    total = 0.0
    for row, label in zip(rows.sigmoid().tolist(), LABELS.tolist(), strict=True):
        total -= sum(math.log(p if i == label else 1 - p) for i, p in enumerate(row))
    assert loss(rows, LABELS, avg_factor=2.0).item() == pytest.approx(total / 2, rel=1e-5)
    focal = FocalCustomLoss(num_classes=3)
    assert torch.equal(focal(rows, LABELS), FocalLoss()(rows, LABELS))
    right = sum(int(rows[i].argmax()) == int(LABELS[i]) for i in range(2))
    for each in (loss, focal):
        assert each.accuracy(rows, LABELS)["acc_classes"].item() == 50 * right
        assert each.accuracy(rows, LABELS * 0 + 3)["acc_classes"] == 0
        with pytest.raises(ValueError, match="num_classes 3, its head 4"):
            each.channels(4)


def test_a_box_head_whose_background_has_no_logit() -> None:
    loss = {"type": "CrossEntropyCustomLoss", "num_classes": 5, "use_sigmoid": True}
    head: Any = MODELS.build(
        {
            "type": "Shared2FCBBoxHead",
            "in_channels": 4,
            "fc_out_channels": 8,
            "roi_feat_size": 2,
            "num_classes": 5,
            "reg_class_agnostic": True,
            "cls_predictor_cfg": {"type": "NormedLinear", "tempearture": 50, "bias": True},
            "loss_cls": loss,
        }
    )
    rows, deltas = head(torch.randn(6, 4, 2, 2))
    assert rows.shape == (6, 5) and deltas.shape == (6, 4)
    assert head.scores(rows).shape == (6, 6)
    losses = head.class_loss(rows, torch.tensor([0, 1, 5, 5, 5, 5]), torch.ones(6), 6.0)
    assert set(losses) == {"loss_cls", "acc_classes"}


def test_the_cosine_classifier_of_fcos() -> None:
    normed = {"type": "NormedLinear", "tempearture": 50, "bias": True}
    focal = {"type": "FocalCustomLoss", "num_classes": 3, "use_sigmoid": True}
    head: Any = MODELS.build({**HEAD, "cls_predictor_cfg": normed, "loss_cls": focal})
    assert head.conv_cls.weight.shape[2:] == (1, 1) and head.conv_cls.temperature == 50
    assert head.conv_cls.bias is not None and normed["type"] == "NormedLinear"
    maps = [torch.randn(1, head.cls_convs[0].conv.in_channels, 8, 8)] * len(head.strides)
    target = {"boxes": torch.tensor([[8.0, 8, 40, 30]]), "labels": torch.tensor([1])}
    assert "acc_classes" in head.loss(head(maps), [target], None)
    with pytest.raises(ValueError, match="got 'Linear'"):
        MODELS.build({**HEAD, "cls_predictor_cfg": {"type": "Linear"}})
