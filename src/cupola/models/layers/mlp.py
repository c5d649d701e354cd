"""MLP: linear layers with ReLU in between, as DETR's relatives have for boxes and positions."""

from torch import Tensor

from cupola import nn
from cupola.registry.budget import reserve


class MLP(nn.Module):
    """`num_layers` linear layers [..., in_features] -> [..., out_features], ReLU between them.

    State keys layers.i (source: mmdet/models/layers/transformer/utils.py).
    """

    def __init__(
        self, in_features: int, hidden_features: int, out_features: int, num_layers: int
    ) -> None:
        super().__init__()
        reserve(num_layers)
        sizes = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)
