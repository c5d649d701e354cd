"""FPN with CARAFE in its top-down path (arXiv 1905.02188, section 4.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.conv_module import STEPS
from cupola.models.layers.initialization import initialize_uniformly
from cupola.models.necks.pyramid import used_end
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
CARAFE: Config = {
    "type": "carafe", "up_kernel": 5, "up_group": 1, "encoder_kernel": 3, "encoder_dilation": 1,
}  # fmt: skip


@MODELS.register_module("FPN_CARAFE")
class CarafeFPN(nn.Module):
    """Maps [B, C_i, H_i, W_i] of every backbone stage -> num_outs maps [B, C, H_j, W_j].

    Extra levels are stride-2 convolutions of the last input and take part in the top-down path,
    where a map that is too large is cut at the right and bottom.
    Source: mmdet/models/necks/fpn_carafe.py.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = None,
        order: Sequence[str] = STEPS,
        upsample_cfg: Config = CARAFE,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if upsample_cfg.get("type") != "carafe":
            raise ValueError(f"FPN_CARAFE upsamples with 'carafe', got {dict(upsample_cfg)}")
        last = used_end("FPN_CARAFE", len(in_channels), start_level, end_level)
        used = list(in_channels)[start_level : last + 1]
        if num_outs < len(used):
            raise ValueError(f"FPN_CARAFE: num_outs is {num_outs}, but {len(used)} inputs are used")
        reserve(num_outs)
        self.init_cfg = init_cfg
        self.inputs = len(in_channels)
        self.start_level = start_level
        self.used = len(used)
        cfgs: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg, "order": order}
        C = out_channels
        self.lateral_convs = nn.ModuleList(ConvModule(channels, C, 1, **cfgs) for channels in used)
        for extra in range(num_outs - len(used)):
            conv = ConvModule(C if extra else used[-1], C, 3, 2, padding=1, **cfgs)
            self.lateral_convs.append(conv)
        self.fpn_convs = nn.ModuleList(
            ConvModule(C, C, 3, padding=1, **cfgs) for _ in range(num_outs)
        )
        initialize_uniformly(self)
        settings = {**upsample_cfg, "channels": C, "scale_factor": 2}
        self.upsample_modules = nn.ModuleList(MODELS.build(settings) for _ in range(num_outs - 1))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != self.inputs:
            raise ValueError(f"FPN_CARAFE expects {self.inputs} inputs, got {len(inputs)}")
        maps: list[Tensor] = []
        for i, conv in enumerate(self.lateral_convs):
            further = i > self.used  # than the first extra level
            source = maps[-1] if further else inputs[min(i + self.start_level, self.inputs - 1)]
            maps.append(conv(source))
        for i in range(len(maps) - 2, -1, -1):
            h, w = maps[i].shape[2:]
            maps[i] = maps[i] + self.upsample_modules[i](maps[i + 1])[..., :h, :w]
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, maps, strict=True))
