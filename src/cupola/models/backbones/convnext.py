"""ConvNeXt (arXiv 2201.03545), with the settings and state keys of MMPretrain."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import build_activation, build_norm
from cupola.models.layers.freezing import freeze
from cupola.models.layers.initialization import pretrained_init
from cupola.registry import MODELS

Config = Mapping[str, Any]
GELU: Config = {"type": "GELU"}
LAYER_NORM: Config = {"type": "LN2d", "eps": 1e-6}
# Blocks and channels of the stages.
ARCHITECTURES = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


@MODELS.register_module("LN2d")
class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, norm, and two linear layers over the channels, with a residual."""

    def __init__(
        self, channels: int, act_cfg: Config, norm_cfg: Config, drop_path: float, scale: float
    ) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = build_norm(norm_cfg, channels)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.act = build_activation(act_cfg)
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), float(scale))) if scale > 0 else None
        self.drop_path = nn.DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        out = self.norm(self.depthwise_conv(x)).permute(0, 2, 3, 1)
        out = self.pointwise_conv2(self.act(self.pointwise_conv1(out)))
        if self.gamma is not None:
            out = out * self.gamma
        return x + self.drop_path(out.permute(0, 3, 1, 2))


@MODELS.register_module()
class ConvNeXt(nn.Module):
    """x [B, 3, H, W] -> the normed maps of `out_indices`, stage i at stride 4 * 2**i.

    `arch` is a name, or a dict of depths and channels. With `gap_before_final_norm` the outputs are
    the normed means of the maps, [B, C]. `frozen_stages` n freezes the first n stages. `with_cp`
    is ignored. Source: mmpretrain/models/backbones/convnext.py.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = "tiny",
        in_channels: int = 3,
        stem_patch_size: int = 4,
        norm_cfg: Config = LAYER_NORM,
        act_cfg: Config = GELU,
        linear_pw_conv: bool = True,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = 0,
        gap_before_final_norm: bool = True,
        with_cp: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if not linear_pw_conv:
            raise ValueError("ConvNeXt: linear_pw_conv False is not supported")
        depths, widths = _architecture(arch)
        wanted = [out_indices] if isinstance(out_indices, int) else out_indices
        self.out_indices = tuple(i % len(depths) for i in wanted)
        self.init_cfg = pretrained_init(None, init_cfg)
        self.frozen_stages = frozen_stages
        self.pooled = gap_before_final_norm
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if i == 0:
                conv = nn.Conv2d(in_channels, width, stem_patch_size, stem_patch_size)
                self.downsample_layers.append(nn.Sequential(conv, build_norm(norm_cfg, width)))
            else:
                conv = nn.Conv2d(widths[i - 1], width, 2, 2)
                self.downsample_layers.append(
                    nn.Sequential(build_norm(norm_cfg, widths[i - 1]), conv)
                )
            blocks = [
                ConvNeXtBlock(width, act_cfg, norm_cfg, next(drop_paths), layer_scale_init_value)
                for _ in range(depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
            if i in self.out_indices:
                self.add_module(f"norm{i}", build_norm(norm_cfg, width))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self._freeze()

    def _freeze(self) -> None:
        n = self.frozen_stages
        freeze([*list(self.downsample_layers)[:n], *list(self.stages)[:n]])

    def train(self, mode: bool = True) -> "ConvNeXt":
        super().train(mode)
        self._freeze()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            if i in self.out_indices:
                norm = getattr(self, f"norm{i}")
                if self.pooled:
                    maps.append(norm(x.mean((2, 3), keepdim=True)).flatten(1))
                else:
                    maps.append(norm(x).contiguous())
        return tuple(maps)


def _architecture(
    arch: str | Mapping[str, Sequence[int]],
) -> tuple[Sequence[int], Sequence[int]]:
    if not isinstance(arch, str):
        return arch["depths"], arch["channels"]
    if arch not in ARCHITECTURES:
        raise ValueError(f"ConvNeXt arch is one of {sorted(ARCHITECTURES)}, got {arch!r}")
    return ARCHITECTURES[arch]
