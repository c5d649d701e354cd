"""Darknet-53 of YOLOv3 (arXiv 1804.02767)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.backbones.chain import LayerChain
from cupola.models.layers import ConvModule
from cupola.models.layers.initialization import initialize_convolutions, pretrained_init
from cupola.registry import MODELS

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN", "requires_grad": True}
LEAKY: Config = {"type": "LeakyReLU", "negative_slope": 0.1}
BLOCKS = {53: (1, 2, 8, 8, 4)}
STEM_CHANNELS = 32


class DarknetBlock(nn.Module):
    """x + convolutions(x): a 1x1 convolution to half of the channels and a 3x3 one back."""

    def __init__(self, channels: int, **cfgs: Any) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels // 2, 1, **cfgs)
        self.conv2 = ConvModule(channels // 2, channels, 3, padding=1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


@MODELS.register_module()
class Darknet(LayerChain):
    """x [B, 3, H, W] -> the maps of `out_indices`, where 0 is the stem, i at stride 2**i.

    `frozen_stages` n freezes the first n layers, counting the stem.
    Source: mmdet/models/backbones/darknet.py.
    """

    def __init__(
        self,
        depth: int = 53,
        out_indices: Sequence[int] = (3, 4, 5),
        frozen_stages: int = -1,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = LEAKY,
        norm_eval: bool = True,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        if depth not in BLOCKS:
            raise ValueError(f"Darknet depth is one of {sorted(BLOCKS)}, got {depth}")
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        width = STEM_CHANNELS
        layers: dict[str, nn.Module] = {"conv1": ConvModule(3, width, 3, padding=1, **cfgs)}
        for i, count in enumerate(BLOCKS[depth], 1):
            parts: dict[str, nn.Module] = OrderedDict()
            parts["conv"] = ConvModule(width, 2 * width, 3, 2, padding=1, **cfgs)
            width *= 2
            for block in range(count):
                parts[f"res{block}"] = DarknetBlock(width, **cfgs)
            layers[f"conv_res_block{i}"] = nn.Sequential(parts)
        first = pretrained_init(pretrained, init_cfg)
        super().__init__(layers, out_indices, max(frozen_stages, 0), norm_eval, first)
        initialize_convolutions(self)
