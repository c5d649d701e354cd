"""Reference points and boxes of queries, as fractions 0..1 of the image (or of a 3-D range)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.layers.position_encoding import sine_waves


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x and 1 - x clamped to eps..1, so that 0 and 1 stay finite."""
    return torch.log(x.clamp(eps, 1.0) / (1 - x).clamp(eps, 1.0))


def refine_boxes(references: Tensor, regression: Tensor, eps: float = 1e-5) -> Tensor:
    """Boxes around references: references [..., 2 or 4] in 0..1, regression [..., 4] -> [..., 4].

    The regression is added to the logits of the references; for points its last two numbers are the
    logits of width and height. cxcywh in 0..1.
    """
    logits = inverse_sigmoid(references, eps)
    return (regression + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


def encode_references(references: Tensor, num_feats: int, temperature: float = 10000) -> Tensor:
    """Sines and cosines of references [..., 2 or 4] (x, y or cx, cy, w, h) -> [..., 2 or 4 * F].

    F = `num_feats` channels for each coordinate, y first, then x, w and h. Float32 at least.
    Source: mmdet/models/layers/transformer/utils.py, coordinate_to_encoding.
    """
    x, y, *sides = (references * (2 * math.pi)).unbind(-1)
    waves = sine_waves(torch.stack((y, x, *sides), -1), num_feats, temperature)
    return waves.flatten(-2)
