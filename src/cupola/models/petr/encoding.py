"""SinePositionalEncoding3D: sines and cosines of camera, row and column."""

import torch
from torch import Tensor

from cupola.models.layers import SinePositionalEncoding, sine_waves
from cupola.registry import MODELS


@MODELS.register_module()
class SinePositionalEncoding3D(SinePositionalEncoding):
    """The position of a cell among the valid cells along each of the three axes.

    Of every axis all sines come first and then all cosines, unlike in two dimensions. Always
    float32. Source: positional_encoding.py of PETR.
    """

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
