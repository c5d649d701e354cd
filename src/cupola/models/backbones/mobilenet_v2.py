"""MobileNetV2 (arXiv 1801.04381), table 2."""

from collections.abc import Mapping, Sequence
from typing import Any

from cupola import nn
from cupola.models.backbones.chain import LayerChain
from cupola.models.layers import ConvModule
from cupola.models.layers.initialization import initialize_convolutions, pretrained_init
from cupola.models.layers.inverted_residual import InvertedResidual, make_divisible
from cupola.registry import MODELS

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN"}
RELU6: Config = {"type": "ReLU6"}
# Of each layer: expansion, channels, blocks, stride.
ROWS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


@MODELS.register_module()
class MobileNetV2(LayerChain):
    """x [B, 3, H, W] -> the maps of `out_indices`, 0 to 6 for the seven layers and 7 for the last.

    `frozen_stages` n freezes the stem (0) and the first n layers. `with_cp` is ignored.
    Source: mmdet/models/backbones/mobilenet_v2.py.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (1, 2, 4, 7),
        frozen_stages: int = -1,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = RELU6,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        width = make_divisible(STEM_CHANNELS * widen_factor)
        layers: dict[str, nn.Module] = {"conv1": ConvModule(3, width, 3, 2, padding=1, **cfgs)}
        for i, (expansion, channels, count, stride) in enumerate(ROWS, 1):
            blocks = []
            out = make_divisible(channels * widen_factor)
            for block in range(count):
                blocks.append(
                    InvertedResidual(
                        width,
                        out,
                        width * expansion,
                        stride=1 if block else stride,
                        expand=expansion != 1,
                        **cfgs,
                    )
                )
                width = out
            layers[f"layer{i}"] = nn.Sequential(*blocks)
        last = int(LAST_CHANNELS * max(widen_factor, 1.0))
        layers["conv2"] = ConvModule(width, last, 1, **cfgs)
        first = pretrained_init(pretrained, init_cfg)
        outputs = [i + 1 for i in out_indices]  # the stem is no output
        super().__init__(layers, outputs, frozen_stages + 1, norm_eval, first)
        initialize_convolutions(self)
