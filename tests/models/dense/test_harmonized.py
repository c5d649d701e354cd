"""Losses by the density of gradients, of heatmaps and of bags, against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from dense_small import model

from cupola.models.dense import ImageSizes
from cupola.models.dense.anchor_head import of_levels
from cupola.models.losses import GHMC, GHMR, GaussianFocalLoss
from cupola.registry import build
from cupola.structures.boxes import pairwise_iou


def plain_weights(lengths: torch.Tensor, bins: int, last: float) -> torch.Tensor:
    """The number of gradients over that in the same bin, over the number of bins in use."""
    edges = [i / bins for i in range(bins)] + [last]
    place = torch.tensor([[sum(float(g) >= e for e in edges) - 1 for g in row] for row in lengths])
    counts = torch.tensor([[int((place == p).sum()) for p in row] for row in place])
    return lengths.numel() / counts / len(place.unique())


def test_ghmc_equals_its_formula() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3) * 2, torch.tensor([0, 3, 2, 3, 1, 3, 3])
    goal = F.one_hot(labels, 4)[:, :3].float()
    lengths = (logits.sigmoid() - goal).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    expected = (entropy * plain_weights(lengths, 10, 1.000001)).sum() / lengths.numel()
    assert torch.allclose(GHMC(10)(logits, labels, avg_factor=99.0), expected, rtol=1e-5)
    moving = GHMC(10, momentum=0.75)
    moving(logits, labels)
    counts = torch.histc(lengths, 10, 0, 1)
    assert torch.allclose(moving.acc_sum, 0.25 * counts)
    moving(logits, labels)
    assert torch.allclose(moving.acc_sum, 0.4375 * counts)
    assert list(moving.state_dict()) == ["edges", "acc_sum"]
    with pytest.raises(ValueError, match="sigmoid"):
        GHMC(use_sigmoid=False)


def test_ghmr_equals_its_formula() -> None:
    torch.manual_seed(0)
    error = torch.randn(6, 4) * 0.05
    length = (error**2 + 0.02**2).sqrt()
    expected = ((length - 0.02) * plain_weights((error / length).abs(), 10, 1e3)).mean()
    found = GHMR(0.02, 10)(error, torch.zeros(6, 4), avg_factor=3.0)
    assert torch.allclose(found, expected, rtol=1e-5)


def test_levels_are_harmonized_alone() -> None:
    torch.manual_seed(0)
    logits, labels, level = (
        torch.randn(8, 3),
        torch.randint(4, (8,)),
        torch.tensor([0] * 3 + [2] * 5),
    )
    loss = GHMC(5)
    expected = loss(logits[:3], labels[:3]) + loss(logits[3:], labels[3:])
    assert torch.allclose(of_levels(loss, level, logits, labels, None, avg_factor=1.0), expected)


def test_the_heatmap_loss_equals_its_formula() -> None:
    torch.manual_seed(0)
    scores, goal = torch.rand(5, 3), torch.rand(5, 3)
    goal[1, 2] = goal[4, 0] = 1
    expected = torch.zeros(())
    for p, t in zip(scores.flatten(), goal.flatten(), strict=True):
        if t == 1:
            expected -= 0.25 * (1 - p) ** 2 * p.log()
        expected -= 0.75 * (1 - t) ** 4 * p**2 * (1 - p).log()
    loss = GaussianFocalLoss(pos_weight=0.25, neg_weight=0.75)
    assert torch.allclose(loss(scores, goal, avg_factor=2.0), expected / 2, rtol=1e-5)
    places = (torch.tensor([1, 4]), torch.tensor([2, 0]))
    assert torch.allclose(loss(scores, goal, avg_factor=2.0, positive=places), expected / 2)


def test_bags_equal_their_formula() -> None:
    torch.manual_seed(0)
    built = build(model("freeanchor"))
    head = built.bbox_head
    head.bag, head.threshold = 5, 0.2
    target = {
        "boxes": torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60], [10, 10, 44, 32]]),
        "labels": torch.tensor([0, 2, 0]),
    }
    output = head(built.maps(torch.randn(1, 3, 64, 96)))
    losses = head.loss(output, [target], ImageSizes([(64, 96)], [(64, 96)]))
    anchors = torch.cat(head.anchors(output.logits))
    logits, deltas = (each[0] for each in head.joined(output))
    score, taken, total = logits.sigmoid(), torch.zeros(len(logits), 3), 0.0
    boxes = head.bbox_coder.decode(anchors, deltas)
    for box, label in zip(target["boxes"], target["labels"].tolist(), strict=True):
        overlap = pairwise_iou(box[None], boxes)[0]
        if overlap.max() > 0.2:
            chance = ((overlap - 0.2) / (overlap.max() - 0.2)).clamp(min=0)
            taken[:, label] = torch.maximum(taken[:, label], chance)
        bag = pairwise_iou(box[None], anchors)[0].topk(5).indices
        goal = head.bbox_coder.encode(anchors[bag], box.expand(5, 4))
        away = (deltas[bag] - goal).abs()
        smooth = torch.where(away < 0.11, away**2 / 0.22, away - 0.055).sum(1) * 0.75
        chance = score[bag, label] * (-smooth).exp()
        weight = 1 / (1 - chance)
        total = total - 0.5 * ((weight * chance).sum() / weight.sum()).log()
    assert torch.allclose(losses["positive_bag_loss"], total / 3, rtol=1e-4)
    free = score * (1 - taken)
    negative = -0.5 * (free**2 * (1 - free).log()).sum() / 15
    assert torch.allclose(losses["negative_bag_loss"], negative, rtol=1e-4)
