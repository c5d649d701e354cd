"""NASFCOS and its head."""

from collections.abc import Mapping
from typing import Any

from cupola import nn
from cupola.models.dense import SingleStageDetector
from cupola.models.fcos.head import GROUP_NORM, FCOSHead
from cupola.models.layers import ConvModule
from cupola.registry import MODELS

Config = Mapping[str, Any]
INITIAL = (
    {"type": "Caffe2Xavier", "layer": ["ConvModule", "Conv2d"]},
    {
        "type": "Normal",
        "std": 0.01,
        "override": [
            {"name": "conv_reg"},
            {"name": "conv_centerness"},
            {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.01},
        ],
    },
)
DEFORMABLE: Config = {"type": "DCNv2", "deform_groups": 2}
# The layers that the search found: kernel, kind, and whether there is a bias.
LAYERS: tuple[tuple[int, Config | None, bool], ...] = (
    (3, DEFORMABLE, True),
    (3, None, False),
    (3, DEFORMABLE, True),
    (1, None, False),
)


@MODELS.register_module()
class NASFCOS(SingleStageDetector):
    """Source: mmdet/models/detectors/nasfcos.py."""


@MODELS.register_module()
class NASFCOSHead(FCOSHead):
    """An FCOSHead whose two stacks have the layers that the search found.

    Source: mmdet/models/dense_heads/nasfcos_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        norm_cfg: Config | None = GROUP_NORM,
        stacked_convs: int = 4,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        options |= {"norm_cfg": norm_cfg, "init_cfg": init_cfg or list(INITIAL)}
        super().__init__(num_classes, in_channels, stacked_convs=0, **options)
        self.cls_convs = searched(in_channels, self.feat_channels, norm_cfg)
        self.reg_convs = searched(in_channels, self.feat_channels, norm_cfg)


def searched(in_channels: int, channels: int, norm_cfg: Config | None) -> nn.ModuleList:
    """The layers of a stack."""
    return nn.ModuleList(
        ConvModule(
            channels if i else in_channels,
            channels,
            kernel,
            padding=kernel // 2,
            conv_cfg=kind,
            norm_cfg=norm_cfg,
            bias=bias,
        )
        for i, (kernel, kind, bias) in enumerate(LAYERS)
    )
