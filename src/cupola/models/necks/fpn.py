"""FPN, and its variants with a bottom-up path and with DropBlock."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.initialization import initialize_uniformly
from cupola.models.necks.pyramid import FeaturePyramid
from cupola.registry import MODELS

DROP_BLOCK = {"type": "DropBlock", "drop_prob": 0.3, "block_size": 3, "warmup_iters": 0}


@MODELS.register_module()
class FPN(FeaturePyramid):
    """Lateral 1x1 convolutions, a top-down path of sums, 3x3 convolutions, and extra levels.

    Source: "Feature Pyramid Networks" (arXiv 1612.03144), section 3. See FeaturePyramid.
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """[B, C_i, H_i, W_i] of every backbone stage -> num_outs maps [B, C, H_j, W_j]."""
        return self.pyramid(inputs)


@MODELS.register_module("FPN_DropBlock")
class DropBlockFPN(FeaturePyramid):
    """An FPN that drops blocks of its merged maps in training.

    Source: mmdet/models/necks/fpn_dropblock.py.
    """

    def __init__(self, *, plugin: Mapping[str, Any] | None = DROP_BLOCK, **settings: Any) -> None:
        super().__init__(**settings)
        self.plugin = MODELS.build(plugin) if plugin else None

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """[B, C_i, H_i, W_i] of every backbone stage -> num_outs maps [B, C, H_j, W_j]."""
        laterals = self.laterals(inputs)
        for i in range(len(laterals) - 2, -1, -1):
            merged = laterals[i] + self.upsample(laterals[i + 1], laterals[i])
            laterals[i] = merged if self.plugin is None else self.plugin(merged)
        return self.with_extra_levels(self.outputs(laterals), inputs, laterals)


@MODELS.register_module()
class PAFPN(FeaturePyramid):
    """An FPN with a second path, from fine to coarse (PANet, arXiv 1803.01534, section 3.1).

    Source: mmdet/models/necks/pafpn.py; state keys also downsample_convs and pafpn_convs.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        coarser = range(self.start_level, self.end_level)
        C = self.out_channels
        self.downsample_convs = nn.ModuleList(self.output_conv(C, stride=2) for _ in coarser)
        self.pafpn_convs = nn.ModuleList(self.output_conv(C) for _ in coarser)
        initialize_uniformly(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """[B, C_i, H_i, W_i] of every backbone stage -> num_outs maps [B, C, H_j, W_j]."""
        laterals = self.laterals(inputs)
        for i in range(len(laterals) - 2, -1, -1):
            laterals[i] = laterals[i] + self.upsample(laterals[i + 1], laterals[i])
        outs = self.outputs(laterals)
        for i, conv in enumerate(self.downsample_convs):
            outs[i + 1] = outs[i + 1] + conv(outs[i])
        final = [conv(x) for conv, x in zip(self.pafpn_convs, outs[1:], strict=False)]
        return self.with_extra_levels([outs[0], *final], inputs, laterals)
