"""ChannelMapper: converts all feature maps to the same number of channels."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.conv_module import RELU
from cupola.models.layers.initialization import initialize_uniformly
from cupola.registry import MODELS
from cupola.registry.budget import reserve


@MODELS.register_module()
class ChannelMapper(nn.Module):
    """One convolution per map; a larger `num_outs` adds stride-2 levels after the last.

    (maps [B, in_channels[i], H_i, W_i]) -> tuple of [B, out_channels, H_i, W_i]
    (source: mmdet/models/necks/channel_mapper.py; state keys convs.i.conv, extra_convs.i.conv).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        kernel_size: int = 3,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = RELU,
        bias: bool | str = "auto",
        num_outs: int | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "conv_cfg": conv_cfg,
            "norm_cfg": norm_cfg,
            "act_cfg": act_cfg,
            "bias": bias,
        }
        padding = (kernel_size - 1) // 2
        self.init_cfg = init_cfg
        self.convs = nn.ModuleList(
            ConvModule(channels, out_channels, kernel_size, padding=padding, **settings)
            for channels in in_channels
        )
        extra = max(0, (num_outs or 0) - len(in_channels))
        reserve(extra)
        sources = [in_channels[-1], *[out_channels] * (extra - 1)][:extra]
        self.extra_convs = None
        if extra:
            self.extra_convs = nn.ModuleList(
                ConvModule(channels, out_channels, 3, stride=2, padding=1, **settings)
                for channels in sources
            )
        initialize_uniformly(self)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(maps) != len(self.convs):
            raise ValueError(f"ChannelMapper maps {len(self.convs)} levels, got {len(maps)}")
        outs = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        source = maps[-1]
        for conv in self.extra_convs or ():
            source = conv(source)
            outs.append(source)
        return tuple(outs)
