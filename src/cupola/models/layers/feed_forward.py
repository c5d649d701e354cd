"""FFN: the position-wise feed-forward network of a transformer layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.building import build_activation
from cupola.registry import MODELS

RELU: Mapping[str, Any] = {"type": "ReLU", "inplace": True}


@MODELS.register_module()
class FFN(nn.Module):
    """num_fcs linear layers with activations in between, and a residual unless disabled.

    x [..., embed_dims] -> [..., embed_dims]. State keys layers.0.0, layers.1
    (source: mmcv/cnn/bricks/transformer.py).
    """

    def __init__(
        self,
        embed_dims: int = 256,
        feedforward_channels: int = 1024,
        num_fcs: int = 2,
        act_cfg: Mapping[str, Any] = RELU,
        ffn_drop: float = 0.0,
        dropout_layer: Mapping[str, Any] | None = None,
        add_identity: bool = True,
        dropout: float | None = None,
        add_residual: bool | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if num_fcs < 2:
            raise ValueError(f"FFN needs num_fcs >= 2, got {num_fcs}")
        drop = ffn_drop if dropout is None else dropout
        self.init_cfg = init_cfg
        self.add_identity = add_identity if add_residual is None else add_residual
        hidden = [
            nn.Sequential(
                nn.Linear(embed_dims if i == 0 else feedforward_channels, feedforward_channels),
                build_activation(act_cfg),
                nn.Dropout(drop),
            )
            for i in range(num_fcs - 1)
        ]
        self.layers = nn.Sequential(
            *hidden, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(drop)
        )
        residual = dropout_layer or {}
        kind = nn.DropPath if residual.get("type") == "DropPath" else nn.Dropout
        residual_drop = residual.get("drop_prob", 0.0)
        self.dropout_layer = kind(residual_drop) if residual_drop else nn.Identity()

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        out = self.dropout_layer(self.layers(x))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out
