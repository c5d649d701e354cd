"""ResLayer: the last stage of a ResNet as the layers that C4 detectors apply to regions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.backbones.resnet import ARCHITECTURES, _stage
from cupola.registry import MODELS

Config = Mapping[str, Any]


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
        block, blocks = ARCHITECTURES[depth]
        width = 64 * 2**stage * block.expansion
        norm = dict(norm_cfg or {"type": "BN", "requires_grad": True})
        settings = {"norm_cfg": norm, "style": style, "dcn": dcn}
        layer, _ = _stage(
            block, blocks[stage], width // 2, width, stride, dilation, dilation, settings
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
