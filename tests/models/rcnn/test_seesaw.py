"""SeesawLoss against its equations, sample by sample."""

import math

import torch

from cupola.models.losses import SeesawLoss


def test_seesaw_loss_follows_its_equations() -> None:
    torch.manual_seed(0)
    loss = SeesawLoss(num_classes=3, return_dict=True)
    loss.cum_samples[:3] = torch.tensor([98.0, 9, 0])
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    found = loss(logits, labels, avg_factor=4.0)
    seen = [99.0, 10, 1]
    total = 0.0
    for row, label in zip(logits[:3], (0, 1, 2), strict=True):
        score = row[:3].softmax(0).tolist()
        terms = []
        for j in range(3):
            mitigation = min(1.0, seen[j] / seen[label]) ** 0.8
            compensation = max(1.0, score[j] / max(score[label], 0.01)) ** 2
            factor = 1.0 if j == label else mitigation * compensation
            terms.append(factor * math.exp(row[j]))
        total -= math.log(terms[label] / sum(terms))
    assert abs(found["loss_cls_classes"].item() - total / 4) < 1e-4
    objectness = torch.nn.functional.cross_entropy(logits[:, 3:], torch.tensor([0, 0, 0, 1]))
    assert abs(found["loss_cls_objectness"].item() - objectness.item()) < 1e-4
    scores = loss.scores(logits)
    assert torch.allclose(scores.sum(1), torch.ones(4))
