"""TridentNet's ResNet (arXiv 1901.01892): a last stage with branches of several dilations."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import Bottleneck, Stage
from cupola.models.backbones.residual_net import ResidualNet
from cupola.models.backbones.resnet import BLOCKS, blocks_of_depth, deeper
from cupola.registry import MODELS

STAGES = 3


class TridentStage(nn.Sequential):
    """Bottlenecks whose 3x3 convolutions are applied with each of the `dilations`.

    x [B, C, H, W] -> [branches * B, C', h, w]: all branches in training or if `test_branch` is -1,
    otherwise only that one.
    """

    def __init__(
        self, blocks: Sequence[Bottleneck], dilations: Sequence[int], test_branch: int
    ) -> None:
        super().__init__(*blocks)
        self.dilations = tuple(dilations)
        self.test_branch = test_branch

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.test_branch == -1:
            return torch.cat([self._branch(x, dilation) for dilation in self.dilations])
        return self._branch(x, self.dilations[self.test_branch])

    def _branch(self, x: Tensor, dilation: int) -> Tensor:
        for block in self:
            conv2 = _dilated(block.conv2, dilation)
            x = F.relu(block.residual(x, conv2) + block.shortcut(x), inplace=True)
        return x


def _dilated(conv: Any, dilation: int) -> Callable[[Tensor], Tensor]:
    return partial(
        F.conv2d, weight=conv.weight, stride=conv.stride, padding=dilation, dilation=dilation
    )


@MODELS.register_module()
class TridentResNet(ResidualNet):
    """x [B, 3, H, W] -> the feature maps of `out_indices`; the last stage is a TridentStage.

    The other settings are those of ResidualNet. Source: mmdet/models/backbones/trident_resnet.py.
    """

    def __init__(
        self,
        depth: int,
        num_branch: int,
        test_branch_idx: int,
        trident_dilations: Sequence[int],
        base_channels: int = 64,
        stem_channels: int | None = None,  # that of base_channels
        num_stages: int = STAGES,
        strides: Sequence[int] = (1, 2, 2),
        dilations: Sequence[int] = (1, 1, 1),
        **settings: Any,
    ) -> None:
        if num_branch != len(trident_dilations):
            raise ValueError(
                f"TridentResNet: {num_branch} branches, but dilations {tuple(trident_dilations)}"
            )
        if num_stages != STAGES or settings.get("dcn"):
            raise ValueError(f"TridentResNet has {STAGES} stages, without dcn")
        blocks = blocks_of_depth("TridentResNet", depth, deeper(BLOCKS))
        stages = [
            Stage(Bottleneck, blocks[i], base_channels * 2**i, base_channels * 2 ** (i + 2),
                  strides[i], dilations[i])
            for i in range(num_stages)
        ]  # fmt: skip
        super().__init__(stages, stem_channels=stem_channels or base_channels, **settings)
        last = self.stages[-1]
        blocks_of_last = list(getattr(self, last))
        setattr(self, last, TridentStage(blocks_of_last, trident_dilations, test_branch_idx))
