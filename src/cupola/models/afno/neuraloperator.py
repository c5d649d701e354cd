"""The FNO of the package neuraloperator, for its checkpoints (versions 1 and 2, dense weights).

Original: neuraloperator/neuraloperator, neuralop/models/fno.py and layers/fno_block.py. Differs
from `FNO`: two-layer lifting, spectral biases, and a channel MLP with a gated skip in each block.
Letters: B samples, C channels, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.afno.fno import SpectralConv2d
from cupola.models.afno.operator import FieldOperator
from cupola.registry import MODELS


class ChannelMLP(nn.Module):
    """Two pointwise convolutions around a GELU: [B, C_in, H, W] -> [B, C_out, H, W]."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fcs = nn.ModuleList([nn.Conv2d(inputs, hidden, 1), nn.Conv2d(hidden, outputs, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H, W]."""
        return self.fcs[1](F.gelu(self.fcs[0](x)))


class Block(nn.Module):
    """Spectral convolution with bias plus linear skip, GELU, channel MLP plus gated input, GELU."""

    def __init__(self, width: int, modes: tuple[int, int], expansion: float, last: bool) -> None:
        super().__init__()
        self.conv = SpectralConv2d(width, width, modes)
        self.bias = nn.Parameter(torch.zeros(width, 1, 1))
        self.skip = nn.Conv2d(width, width, 1, bias=False)
        self.mlp = ChannelMLP(width, round(width * expansion), width)
        self.gate = nn.Parameter(torch.ones(1, width, 1, 1))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = self.conv(x) + self.bias + self.skip(x)
        y = y if self.last else F.gelu(y)
        y = self.mlp(y) + self.gate * x
        return y if self.last else F.gelu(y)


@MODELS.register_module()
class NeuralOperatorFNO(FieldOperator):
    """neuraloperator's FNO with its own names of settings: [B, C_in, H, W] -> [B, C_out, H, W].

    n_modes: (rows, columns) of kept frequencies, counted on both sides of 0; rows must be even.
    The grid must have an even number of rows.
    """

    def __init__(
        self,
        n_modes: tuple[int, int],
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        n_layers: int = 4,
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        channel_mlp_expansion: float = 0.5,
        positional_embedding: str | None = "grid",
        latitude_weights: bool = False,
    ) -> None:
        super().__init__(latitude_weights)
        rows, columns = n_modes
        if rows % 2:
            raise BuildError(f"n_modes={tuple(n_modes)}: an odd number of rows is not included")
        if positional_embedding not in ("grid", None):
            given = repr(positional_embedding)
            raise BuildError(f"positional_embedding={given}: expected 'grid' or None")
        self.modes, self.in_chans = (rows // 2, columns // 2 + 1), in_channels
        self.has_positions = positional_embedding is not None
        width = hidden_channels
        lifted = in_channels + 2 * self.has_positions
        self.lifting = ChannelMLP(lifted, int(lifting_channel_ratio * width), width)
        self.blocks = nn.ModuleList(
            [
                Block(width, self.modes, channel_mlp_expansion, last=i == n_layers - 1)
                for i in range(n_layers)
            ]
        )
        self.projection = ChannelMLP(width, int(projection_channel_ratio * width), out_channels)

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """[C_in, H, W] of an input: any grid will do that has the modes."""
        return self.in_chans, max(64, 2 * self.modes[0]), max(64, 2 * self.modes[1])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H, W]."""
        if self.has_positions:
            B, _, H, W = x.shape
            rows = torch.arange(H, device=x.device, dtype=x.dtype) / H
            columns = torch.arange(W, device=x.device, dtype=x.dtype) / W
            places = [rows[:, None].expand(B, 1, H, W), columns.expand(B, 1, H, W)]
            x = torch.cat([x, *places], dim=1)
        x = self.lifting(x)
        for block in self.blocks:
            x = block(x)
        return self.projection(x)
