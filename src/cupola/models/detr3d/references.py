"""Reference points: the 3-D location of a query, as fractions 0..1 of a range or in meters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.constants import constant
from cupola.models.layers import inverse_sigmoid


def first_references(linear: nn.Linear, position: Tensor) -> Tensor:
    """The references [..., 3] of learned positions [..., C], in float64 (on Apple's GPUs float32).

    Rounded to float32 their logits are off by 1e-6, which moves a box by 0.03 mm, and the layers of
    a decoder make three to ten times as much of it.
    """
    dtype = torch.float32 if position.device.type == "mps" else torch.float64
    bias = None if linear.bias is None else linear.bias.to(dtype)
    return F.linear(position.to(dtype), linear.weight.to(dtype), bias).sigmoid()


def to_meters(references: Tensor, pc_range: Sequence[float] | Tensor) -> Tensor:
    """Fractions [..., 3] of pc_range (x0, y0, z0, x1, y1, z1) -> meters [..., 3]."""
    if isinstance(pc_range, Tensor):
        limits = pc_range.to(references)
    else:
        limits = constant(tuple(pc_range), references, references.dtype)
    low, high = limits[:3], limits[3:]
    return references * (high - low) + low


def refine(references: Tensor, regression: Tensor) -> Tensor:
    """Adds channels 0, 1 and 4 of a regression [B, Q, 10] to the logits of references [B, Q, 3]."""
    step = torch.cat((regression[..., :2], regression[..., 4:5]), dim=-1)
    return (inverse_sigmoid(references) + step).sigmoid()


def place_boxes(references: Tensor, regression: Tensor, pc_range: Sequence[float]) -> Tensor:
    """Regression [..., 10] around its references [..., 3] -> codes with centers in meters."""
    center = to_meters(refine(references, regression), pc_range)
    return torch.cat(
        (center[..., :2], regression[..., 2:4], center[..., 2:3], regression[..., 5:]), dim=-1
    )
