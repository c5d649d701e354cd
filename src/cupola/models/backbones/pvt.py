"""Pyramid Vision Transformer (arXiv 2102.12122) and its version 2 (arXiv 2106.13797).

Maps are channels-last inside, [B, H, W, C]. State keys layers.i.0 (patches), layers.i.1.j (blocks,
after the positions of version 1) and layers.i.2 (norm).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import build_activation, build_norm
from cupola.models.layers.initialization import pretrained_init
from cupola.models.layers.patches import PatchEmbed
from cupola.nn.meta import parameter_device
from cupola.registry import MODELS

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN", "eps": 1e-6}
GELU: Config = {"type": "GELU"}


class SpatialReductionAttention(nn.Module):
    """Attention of all cells to a map reduced by `reduction`: [B, H, W, C] -> [B, H, W, C]."""

    def __init__(
        self, channels: int, heads: int, reduction: int, dropout: float, bias: bool, norm: Config
    ) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(
            channels, heads, dropout=dropout, bias=bias, batch_first=True
        )
        self.sr = self.norm = None
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = build_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        keys = x.flatten(1, 2)  # [B, H * W, C]
        if self.sr is not None and self.norm is not None:
            keys = self.norm(self.sr(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))
        out, _ = self.attn(x.flatten(1, 2), keys, keys, need_weights=False)
        return out.view(x.shape)


class MixFFN(nn.Module):
    """Two 1x1 convolutions, with a depthwise 3x3 convolution after the first if `use_conv`."""

    def __init__(
        self, channels: int, hidden: int, act_cfg: Config, dropout: float, use_conv: bool
    ) -> None:
        super().__init__()
        depthwise = [nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)] if use_conv else []
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            *depthwise,
            build_activation(act_cfg),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, channels, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PVTBlock(nn.Module):
    """Attention and MixFFN, each after a norm and with a residual: [B, H, W, C] -> the same."""

    def __init__(
        self,
        attention: SpatialReductionAttention,
        ffn: MixFFN,
        channels: int,
        norm: Config,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm, channels)
        self.attn = attention
        self.norm2 = build_norm(norm, channels)
        self.ffn = ffn
        self.drop = nn.Dropout(dropout)
        self.drop_path = nn.DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.drop(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class AbsolutePositions(nn.Module):
    """Adds learned positions, resized to the map: [B, H, W, C] -> the same."""

    def __init__(self, height: int, width: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.size = (height, width)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, height * width, channels, device=parameter_device(None))
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        table = torch.unflatten(self.pos_embed, 1, self.size).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=x.shape[1:3], mode="bilinear")
        return self.drop(x + table.permute(0, 2, 3, 1))


@MODELS.register_module()
class PyramidVisionTransformer(nn.Module):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, stage i at stride 4 * 2**i.

    Sequences have one number per stage. `drop_path_rate` grows linearly over the blocks.
    `pretrain_img_size` gives the number of the learned positions. `convert_weights` is ignored.
    Source: mmdet/models/backbones/pvt.py.
    """

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 64,
        num_stages: int = 4,
        num_layers: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        patch_sizes: Sequence[int] = (4, 2, 2, 2),
        strides: Sequence[int] = (4, 2, 2, 2),
        paddings: Sequence[int] = (0, 0, 0, 0),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = True,
        norm_after_stage: bool = False,
        use_conv_ffn: bool = False,
        act_cfg: Config = GELU,
        norm_cfg: Config = LAYER_NORM,
        pretrained: str | None = None,
        convert_weights: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        for each in (num_layers, num_heads, patch_sizes, strides, paddings, sr_ratios, mlp_ratios):
            if len(each) != num_stages:
                raise ValueError(
                    f"{tuple(each)}: PVT needs a number for each of {num_stages} stages"
                )
        if not out_indices or not 0 <= min(out_indices) <= max(out_indices) < num_stages:
            raise ValueError(f"out_indices {tuple(out_indices)}: there are {num_stages} stages")
        self.init_cfg = pretrained_init(pretrained, init_cfg)
        self.out_indices = tuple(out_indices)
        size = [pretrain_img_size] * 2 if isinstance(pretrain_img_size, int) else pretrain_img_size
        height, width = size if len(size) == 2 else [*size] * 2
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(num_layers), device="cpu").tolist())
        self.layers = nn.ModuleList()
        for i in range(num_stages):
            C = embed_dims * num_heads[i]
            patches = PatchEmbed(in_channels, C, patch_sizes[i], norm_cfg, strides[i], paddings[i])
            blocks = nn.ModuleList()
            if use_abs_pos_embed:
                scale = math.prod(patch_sizes[: i + 1])
                blocks.append(AbsolutePositions(height // scale, width // scale, C, drop_rate))
            for _ in range(num_layers[i]):
                attention = SpatialReductionAttention(
                    C, num_heads[i], sr_ratios[i], attn_drop_rate, qkv_bias, norm_cfg
                )
                ffn = MixFFN(C, mlp_ratios[i] * C, act_cfg, drop_rate, use_conv_ffn)
                blocks.append(PVTBlock(attention, ffn, C, norm_cfg, drop_rate, next(drop_paths)))
            norm = build_norm(norm_cfg, C) if norm_after_stage else nn.Identity()
            self.layers.append(nn.ModuleList([patches, blocks, norm]))
            in_channels = C
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, AbsolutePositions):
                nn.init.trunc_normal_(module.pos_embed, std=0.02)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2.0 / fan_out))
            if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for patches, blocks, norm in list(self.layers)[: max(self.out_indices) + 1]:
            x = patches(x)  # [B, h, w, C]
            for block in blocks:
                x = block(x)
            x = norm(x).permute(0, 3, 1, 2).contiguous()  # [B, C, h, w]
            maps.append(x)
        return tuple(each for i, each in enumerate(maps) if i in self.out_indices)


@MODELS.register_module()
class PyramidVisionTransformerV2(PyramidVisionTransformer):
    """PVT with overlapping patches, convolutions in its FFNs, and no learned positions."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            patch_sizes=(7, 3, 3, 3),
            paddings=(3, 1, 1, 1),
            use_abs_pos_embed=False,
            norm_after_stage=True,
            use_conv_ffn=True,
            **settings,
        )
