"""A mixture of two Gaussians over numbers, fitted by expectation and maximization.

Equal to scikit-learn's GaussianMixture with the settings of mmdet's PAAHead.
"""

import math

import torch
from torch import Tensor

STEPS, TOLERANCE, LEAST_VARIANCE = 100, 1e-3, 1e-6


def two_gaussians(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N] -> which Gaussian each belongs to (0 the lower one), and its log density [N]."""
    x = values.double()[:, None]  # [N, 1]
    share = x.new_tensor([0.5, 0.5])
    mean = torch.cat((x.amin(0), x.amax(0)))
    variance = x.new_ones(2)
    before = -math.inf
    for _ in range(STEPS):
        joint = _log_joint(x, share, mean, variance)  # [N, 2]
        total = joint.logsumexp(1)
        part = (joint - total[:, None]).exp()
        count = part.sum(0) + 10 * torch.finfo(x.dtype).eps
        mean = (part * x).sum(0) / count
        variance = (part * x**2).sum(0) / count - mean**2 + LEAST_VARIANCE
        share = count / len(x)
        now = float(total.mean())
        if abs(now - before) < TOLERANCE:
            break
        before = now
    joint = _log_joint(x, share, mean, variance)
    return joint.argmax(1), joint.logsumexp(1)


def _log_joint(x: Tensor, share: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    density = -0.5 * ((x - mean) ** 2 / variance + (2 * math.pi * variance).log())
    return density + share.log()
