"""Small networks of Sparse4D: linear layers with layer norms, and its feed-forward network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.building import build_activation, build_norm
from cupola.registry import MODELS

RELU: Mapping[str, Any] = {"type": "ReLU", "inplace": True}


def linear_relu_ln(
    channels: int, linears: int, norms: int, in_channels: int | None = None
) -> list[nn.Module]:
    """`norms` times: `linears` linear layers with ReLU, then a layer norm."""
    layers: list[nn.Module] = []
    width = in_channels or channels
    for _ in range(norms):
        for _ in range(linears):
            layers += [nn.Linear(width, channels), nn.ReLU(inplace=True)]
            width = channels
        layers.append(nn.LayerNorm(channels))
    return layers


@MODELS.register_module()
class AsymmetricFFN(nn.Module):
    """A feed-forward network whose input is wider than its output, and normalized first.

    x [..., in_channels] -> [..., embed_dims]. The residual is the normalized input, by a linear
    layer in the width of the output. Source: blocks.py of Sparse4D.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        pre_norm: Mapping[str, Any] | None = None,
        embed_dims: int = 256,
        feedforward_channels: int = 1024,
        num_fcs: int = 2,
        act_cfg: Mapping[str, Any] = RELU,
        ffn_drop: float = 0.0,
        add_identity: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if num_fcs < 2:
            raise ValueError(f"AsymmetricFFN needs num_fcs >= 2, got {num_fcs}")
        self.init_cfg = init_cfg
        self.add_identity = add_identity
        width = in_channels or embed_dims
        self.pre_norm = build_norm(pre_norm, width) if pre_norm else None
        hidden = [
            nn.Sequential(
                nn.Linear(width if i == 0 else feedforward_channels, feedforward_channels),
                build_activation(act_cfg),
                nn.Dropout(ffn_drop),
            )
            for i in range(num_fcs - 1)
        ]
        self.layers = nn.Sequential(
            *hidden, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(ffn_drop)
        )
        if add_identity:  # the original compares the hidden width, not that of the input
            same = feedforward_channels == embed_dims
            self.identity_fc = nn.Identity() if same else nn.Linear(width, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        out: Tensor = self.layers(x)
        return out + self.identity_fc(x) if self.add_identity else out
