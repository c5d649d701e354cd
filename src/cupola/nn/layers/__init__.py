"""Cupola's layers: those that its models use. All others are torch.nn's (`torch_layers`)."""

from typing import Final

import torch

from cupola.nn.layers.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from cupola.nn.layers.attention import MultiheadAttention
from cupola.nn.layers.batchnorm import BatchNorm1d, BatchNorm2d, FrozenBatchNorm2d, SyncBatchNorm
from cupola.nn.layers.containers import ModuleDict, ModuleList, Sequential
from cupola.nn.layers.conv import Conv2d
from cupola.nn.layers.dropout import Dropout, DropPath
from cupola.nn.layers.embedding import Embedding
from cupola.nn.layers.factory import Layer
from cupola.nn.layers.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyConv2d, LazyLinear
from cupola.nn.layers.linear import Identity, Linear
from cupola.nn.layers.norm import GroupNorm, LayerNorm, RMSNorm
from cupola.nn.layers.pooling import MaxPool2d

# fmt: off
__all__ = [
    "GELU", "BatchNorm1d", "BatchNorm2d", "Conv2d", "DropPath", "Dropout", "Embedding",
    "FrozenBatchNorm2d", "GroupNorm", "Identity", "LayerNorm", "LazyBatchNorm1d",
    "LazyBatchNorm2d", "LazyConv2d", "LazyLinear", "LeakyReLU", "Linear", "MaxPool2d",
    "ModuleDict", "ModuleList", "MultiheadAttention", "RMSNorm", "ReLU", "Sequential", "SiLU",
    "Sigmoid", "SyncBatchNorm", "Tanh",
]
# fmt: on

# The layers of torch.nn that each of these stands for.
TWINS: Final[dict[type, type]] = {
    cls: getattr(torch.nn, name)
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Layer) and hasattr(torch.nn, name)
}
for _cls, _twin in TWINS.items():
    _cls.register(_twin)  # type: ignore[attr-defined]
