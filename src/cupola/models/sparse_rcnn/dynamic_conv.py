"""DynamicConv: two 1x1 convolutions of a region whose weights come from its query.

Letters: R regions, C channels, S cells of a region.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers import build_activation, build_norm
from cupola.registry import MODELS

Config = Mapping[str, Any]
RELU: Config = {"type": "ReLU", "inplace": True}
LAYER_NORM: Config = {"type": "LN"}


@MODELS.register_module()
class DynamicConv(nn.Module):
    """Queries [R, in_channels], regions [R, in_channels, h, w] -> [R, out_channels].

    Without `with_proj` it returns the cells, [R, h * w, out_channels].
    Source: Sparse R-CNN, figure 2; mmdet/models/layers/transformer/utils.py.
    """

    def __init__(
        self,
        in_channels: int = 256,
        feat_channels: int = 64,
        out_channels: int | None = None,
        input_feat_shape: int = 7,
        with_proj: bool = True,
        act_cfg: Config = RELU,
        norm_cfg: Config = LAYER_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        outputs = out_channels or in_channels
        self.shapes = (in_channels, feat_channels), (feat_channels, outputs)
        self.dynamic_layer = nn.Linear(in_channels, feat_channels * (in_channels + outputs))
        self.norm_in = build_norm(norm_cfg, feat_channels)
        self.norm_out = build_norm(norm_cfg, outputs)
        self.activation = build_activation(act_cfg)
        self.fc_layer = self.fc_norm = None
        if with_proj:
            self.fc_layer = nn.Linear(outputs * input_feat_shape**2, outputs)
            self.fc_norm = build_norm(norm_cfg, outputs)

    def forward(self, queries: Tensor, regions: Tensor) -> Tensor:
        first, second = self.shapes
        weights = self.dynamic_layer(queries).split([first[0] * first[1], second[0] * second[1]], 1)
        cells = regions.flatten(2).transpose(1, 2)  # [R, S, C]
        cells = self.activation(self.norm_in(cells @ weights[0].view(-1, *first)))
        cells = self.activation(self.norm_out(cells @ weights[1].view(-1, *second)))
        if self.fc_layer is None or self.fc_norm is None:
            return cells
        found: Tensor = self.activation(self.fc_norm(self.fc_layer(cells.flatten(1))))
        return found
