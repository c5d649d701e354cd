"""Reference points and boxes of queries, as fractions 0..1 of the image (or of a 3-D range)."""

import math

import torch
from torch import Tensor


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x and 1 - x clamped to eps..1, so that 0 and 1 stay finite."""
    return torch.log(x.clamp(eps, 1.0) / (1 - x).clamp(eps, 1.0))


def encode_references(references: Tensor, num_feats: int, temperature: float = 10000) -> Tensor:
    """Sines and cosines of references [..., 2 or 4] (x, y or cx, cy, w, h) -> [..., 2 or 4 * F].

    F = `num_feats` channels for each coordinate, y first, then x, w and h. Float32 at least.
    Source: mmdet/models/layers/transformer/utils.py, coordinate_to_encoding.
    """
    index = torch.arange(num_feats, dtype=torch.float32, device=references.device)
    period = temperature ** (2 * (index // 2) / num_feats)
    x, y, *sides = (references * (2 * math.pi)).unbind(-1)
    angles = torch.stack((y, x, *sides), -1)[..., None] / period  # [..., 2 or 4, F]
    waves = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1)
    return waves.flatten(-3)
