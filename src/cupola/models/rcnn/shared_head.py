"""ResLayer: the last stage of a ResNet as the layers that C4 detectors apply to regions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import (
    BasicBlock,
    BlockSettings,
    Bottleneck,
    Stage,
    build_stage,
)
from cupola.models.backbones.resnet import BLOCKS, SHALLOW, blocks_of_depth
from cupola.registry import MODELS

Config = Mapping[str, Any]
NORM: Config = {"type": "BN", "requires_grad": True}


@MODELS.register_module()
class ResLayer(nn.Module):
    """Stage `stage` (0..3) of a ResNet; batch norms use their running statistics if `norm_eval`.

    Source: mmdet/models/roi_heads/shared_heads/res_layer.py.
    """

    def __init__(
        self,
        depth: int,
        stage: int = 3,
        stride: int = 2,
        dilation: int = 1,
        style: str = "pytorch",
        norm_cfg: Config | None = None,
        norm_eval: bool = True,
        with_cp: bool = False,
        dcn: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        count = blocks_of_depth("ResLayer", depth, BLOCKS)[stage]
        block = BasicBlock if depth in SHALLOW else Bottleneck
        channels = 64 * 2**stage
        width = channels * block.expansion
        layer = build_stage(
            Stage(block, count, channels, width, stride, dilation),
            width // 2,
            BlockSettings(norm_cfg or NORM, style=style, dcn=dcn),
        )
        self.name, self.norm_eval = f"layer{stage + 1}", norm_eval
        self.add_module(self.name, layer)
        checkpoint = {"type": "Pretrained", "checkpoint": pretrained} if pretrained else None
        self.init_cfg = init_cfg or checkpoint or {"type": "Kaiming", "layer": "Conv2d"}

    def forward(self, x: Tensor) -> Tensor:
        """Regions [R, C, h, w] -> [R, 2 * C, h / stride, w / stride]."""
        found: Tensor = getattr(self, self.name)(x)
        return found

    def train(self, mode: bool = True) -> "ResLayer":
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self
