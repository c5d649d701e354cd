"""SinePositionalEncoding3D: sines and cosines of camera, row and column."""

import math
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import sine_waves
from cupola.registry import MODELS


@MODELS.register_module()
class SinePositionalEncoding3D(nn.Module):
    """The position of a cell among the valid cells along each of the three axes.

    Of every axis all sines come first and then all cosines, unlike in two dimensions. Always
    float32. Source: positional_encoding.py of PETR.
    """

    def __init__(
        self,
        num_feats: int,
        temperature: float = 10000,
        normalize: bool = False,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
        offset: float = 0.0,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.num_feats = num_feats
        self.temperature = temperature
        self.normalize = normalize
        self.scale = scale
        self.eps = eps
        self.offset = offset

    def forward(self, mask: Tensor) -> Tensor:
        """mask [B, N, h, w], bool, True = padded -> [B, N, 3 * num_feats, h, w]: camera, y, x."""
        valid = (~mask).to(torch.float32)
        waves = []
        for axis in (1, 2, 3):
            place = valid.cumsum(axis)  # counting from 1
            if self.normalize:
                last = place.select(axis, -1).unsqueeze(axis)
                place = (place + self.offset) / (last + self.eps) * self.scale
            pairs = sine_waves(place, self.num_feats, self.temperature)
            waves += [pairs[..., 0::2], pairs[..., 1::2]]
        return torch.cat(waves, dim=-1).permute(0, 1, 4, 2, 3)  # [B, N, 3 * num_feats, h, w]
