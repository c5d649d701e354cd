"""Networks over the cells of feature maps, and the cells as keys.

Letters: B samples, N cameras, C channels, h and w size of a map.
"""

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.extraction import computed_apart


def tokens(maps: Tensor) -> Tensor:
    """[B, N, C, h, w] -> [B, N * h * w, C]"""
    return maps.permute(0, 1, 3, 4, 2).flatten(1, 3)


def pixel_network(channels: int, hidden: int, out: int) -> nn.Sequential:
    """Two 1x1 convolutions with a ReLU in between."""
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out, 1))


def encode_cells(network: nn.Module, maps: Tensor) -> Tensor:
    """A pixel_network of maps [B * N, channels, h, w] -> [B * N, C, h, w].

    Its hidden maps are the largest of the head; a prediction on a CPU has those of one camera.
    """
    if computed_apart(maps):
        return torch.cat([network(each[None]) for each in maps])
    encoded: Tensor = network(maps)
    return encoded
