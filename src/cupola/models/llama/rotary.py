"""Rotary position embedding (RoFormer, arXiv 2104.09864): a position turns pairs of channels.

Letters: N heads, D head size; "..." is [B, S] or [T].
"""

import math

import torch
from torch import Tensor

from cupola.models.llama.settings import RopeSettings
from cupola.parallel import by_lanes


class RotaryEmbedding:
    """Positions [...] -> cosines and sines [..., 1, D / 2] of the angles at each position.

    It is no Module: the frequencies must stay in float32 when a model is converted.
    """

    def __init__(self, size: int, settings: RopeSettings) -> None:
        self.frequencies = frequencies(size, settings)  # [D / 2]

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        frequencies = self.frequencies.to(positions.device)
        if positions.is_cuda:
            self.frequencies = frequencies  # copied once: no CUDA graph could record it
        angles = positions[..., None, None].float() * frequencies  # [..., 1, D / 2]
        return by_lanes(torch.cos, angles).to(dtype), by_lanes(torch.sin, angles).to(dtype)


def frequencies(size: int, settings: RopeSettings) -> Tensor:
    """[D / 2] radians per position, scaled as the settings say."""
    found: Tensor = 1.0 / (settings.rope_theta ** (torch.arange(0, size, 2).float() / size))
    if settings.rope_type == "linear":
        return found / settings.factor
    if settings.rope_type == "llama3":
        return _llama3(found, settings)
    return found


def _llama3(found: Tensor, settings: RopeSettings) -> Tensor:
    """Low frequencies are divided by the factor, high ones kept, those between interpolated.

    What counts is how many turns fit in the original context (transformers modeling_rope_utils.py).
    """
    low, high = settings.low_freq_factor, settings.high_freq_factor
    turns = settings.original_max_position_embeddings * found / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * found + (1 - kept) * found / settings.factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[..., N, D] with channel i and i + D / 2 turned by the i-th angle of the position."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
