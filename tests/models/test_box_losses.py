"""Losses of boxes against their equations."""

import math

import pytest
import torch

from cupola.models.losses import BalancedL1Loss, CIoULoss


def test_balanced_l1_has_the_gradients_of_the_paper() -> None:
    loss = BalancedL1Loss(alpha=0.5, gamma=1.5, beta=1.0, loss_weight=2.0)
    b = math.exp(3) - 1
    for error in (0.0, 0.2, 0.9, 1.1, 4.0):
        x = torch.tensor([[error]], dtype=torch.float64, requires_grad=True)
        loss(x, torch.zeros_like(x)).backward()
        expected = 0.5 * math.log(b * error + 1) if error < 1 else 1.5
        assert abs(x.grad.item() - 2 * expected) < 1e-6
    below, above = (loss(torch.tensor([x]), torch.zeros(1)) for x in (1 - 1e-6, 1.0))
    assert abs(below - above) < 1e-4
    with pytest.raises(ValueError, match="positive"):
        BalancedL1Loss(beta=0)


def test_complete_iou_counts_distance_and_shape() -> None:
    loss = CIoULoss(loss_weight=3.0)
    box, other = (torch.tensor([each]) for each in ([0.0, 0, 10, 10], [2.0, 0, 12, 8]))
    iou = 64 / (100 + 80 - 64)
    distance = (2**2 + 1**2) / (12**2 + 10**2)
    shape = 4 / math.pi**2 * (math.atan(10 / 8) - math.atan(1)) ** 2
    expected = 1 - (iou - distance - shape**2 / (1 - iou + shape))
    assert loss(box, other).item() == pytest.approx(3 * expected, rel=1e-4)
    far = torch.tensor([[20.0, 0, 40, 10]])  # without overlap the shape does not count
    expected = 1 + (25**2) / (40**2 + 10**2)
    assert loss(box, far).item() == pytest.approx(3 * expected, rel=1e-4)
    assert loss(box, box) < 1e-5
