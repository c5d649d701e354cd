"""ResNet (arXiv 1512.03385), ResNet-D (arXiv 1812.01187) and ResNeXt (arXiv 1611.05431).

State keys are torchvision's: conv1, bn1, layer1.0.conv1, ..., layer1.0.downsample.0.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cupola.models.backbones.residual import BasicBlock, Bottleneck, Stage
from cupola.models.backbones.residual_net import ResidualNet
from cupola.registry import MODELS

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}  # fmt: skip
SHALLOW = (18, 34)  # of BasicBlock


def blocks_of_depth(name: str, depth: int, table: Mapping[int, Sequence[int]]) -> Sequence[int]:
    """The number of blocks of each stage; ValueError for an unknown depth."""
    if depth not in table:
        raise ValueError(f"{name} depth is one of {sorted(table)}, got {depth}")
    return table[depth]


def deeper(table: Mapping[int, Sequence[int]]) -> dict[int, Sequence[int]]:
    """The depths whose blocks are bottlenecks."""
    return {depth: blocks for depth, blocks in table.items() if depth not in SHALLOW}


@MODELS.register_module()
class ResNet(ResidualNet):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, stage i at stride 4 * 2**i.

    The other settings are those of ResidualNet. `dilate_first_block` False leaves the first block
    of a dilated stage undilated, as facebookresearch's DC5 does. `stage_blocks` and `stage_widths`
    are the blocks and the output channels of each stage where they are not those of `depth`, which
    then only chooses the kind of block, as in a ResNetConfig of transformers.
    """

    def __init__(
        self,
        depth: int,
        stem_channels: int | None = None,  # that of base_channels
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        dilate_first_block: bool = True,
        stage_blocks: Sequence[int] | None = None,
        stage_widths: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        blocks = stage_blocks or blocks_of_depth("ResNet", depth, BLOCKS)
        block = BasicBlock if depth in SHALLOW else Bottleneck
        widths = stage_widths or [base_channels * 2**i * block.expansion for i in range(num_stages)]
        stages = [
            Stage(
                block,
                blocks[i],
                widths[i] // block.expansion,
                widths[i],
                strides[i],
                dilations[i],
                first_dilation=None if dilate_first_block else 1,
            )
            for i in range(num_stages)
        ]
        super().__init__(stages, stem_channels=stem_channels or base_channels, **settings)


@MODELS.register_module()
class ResNetV1d(ResNet):
    """A ResNet whose stem is three 3x3 convolutions and whose shortcuts pool before striding."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "deep_stem": True, "avg_down": True})


@MODELS.register_module()
class ResNeXt(ResidualNet):
    """A ResNet whose 3x3 convolutions have `groups` groups of `base_width` channels.

    The other settings are those of ResidualNet. Source: mmdet/models/backbones/resnext.py.
    """

    def __init__(
        self,
        depth: int,
        groups: int = 1,
        base_width: int = 4,
        base_channels: int = 64,
        stem_channels: int | None = None,  # that of base_channels
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        **settings: Any,
    ) -> None:
        blocks = blocks_of_depth("ResNeXt", depth, deeper(BLOCKS))
        stages = []
        for i in range(num_stages):
            channels = base_channels * 2**i
            width = grouped_width(channels, groups, base_width, base_channels)
            block = partial(Bottleneck, groups=groups, width=width)
            stages.append(Stage(block, blocks[i], channels, channels * 4, strides[i], dilations[i]))
        super().__init__(stages, stem_channels=stem_channels or base_channels, **settings)


def grouped_width(channels: int, groups: int, base_width: int, base_channels: int) -> int:
    """The channels in the middle of a bottleneck with groups."""
    return channels if groups == 1 else int(channels * (base_width / base_channels)) * groups
