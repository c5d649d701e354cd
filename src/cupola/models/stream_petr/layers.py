"""Small networks of StreamPETR: motion-aware layer norm and encodings of time and motion."""

import math

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import sine_waves

OCTAVES = 6


class MLN(nn.Module):
    """Scales and shifts x by networks of a condition, after a layer norm unless disabled.

    Source: StreamPETR (arXiv 2303.11926), equation 4; misc.py.
    """

    def __init__(self, condition: int, channels: int, norm: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Linear(condition, channels), nn.ReLU())
        self.gamma = nn.Linear(channels, channels)
        self.beta = nn.Linear(channels, channels)
        self.ln = nn.LayerNorm(channels, elementwise_affine=False) if norm else None
        for parameter in (self.gamma.weight, self.beta.weight, self.beta.bias):
            nn.init.zeros_(parameter)
        nn.init.ones_(self.gamma.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [..., channels], condition [..., condition]"""
        if self.ln is not None:
            x = self.ln(x)
        hidden = self.reduce(condition)
        return self.gamma(hidden) * x + self.beta(hidden)


def encode_motion(motion: Tensor) -> Tensor:
    """[..., D] -> [..., 2 * 6 * D]: sines, then cosines, of 1, 2, 4, ... 32 times the motion."""
    waves = []
    for octave in range(OCTAVES):
        waves += [(motion * 2.0**octave).sin(), (motion * 2.0**octave).cos()]
    return torch.cat(waves, -1)


def encode_time(seconds: Tensor, channels: int) -> Tensor:
    """Ages [..., 1] in seconds, float64 -> sines and cosines [..., channels], float32."""
    return sine_waves(seconds[..., 0] * (2 * math.pi), channels).to(torch.float32)
