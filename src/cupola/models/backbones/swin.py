"""Swin Transformer (arXiv 2103.14030): a hierarchy of window attention, for detection.

State keys are MMDetection's: patch_embed, stages.i.blocks.j, stages.i.downsample, norm0, ...
Checkpoints of microsoft/Swin-Transformer are read as a dialect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import FFN, build_norm
from cupola.models.layers.freezing import freeze
from cupola.models.layers.patches import PatchEmbed, PatchMerging
from cupola.models.layers.window_attention import ShiftWindowMSA
from cupola.nn.meta import parameter_device
from cupola.registry import MODELS

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}
GELU: Config = {"type": "GELU"}


class SwinBlock(nn.Module):
    """Window attention and FFN, each after a norm and with a residual: [B, H, W, C] -> the same."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_path: float,
        drop: float,
        act_cfg: Config,
        norm_cfg: Config,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, embed_dims)
        self.attn = ShiftWindowMSA(
            embed_dims, num_heads, proj_drop=drop, drop_path=drop_path, **attention
        )
        self.norm2 = build_norm(norm_cfg, embed_dims)
        self.ffn = FFN(
            embed_dims,
            feedforward_channels,
            act_cfg=act_cfg,
            ffn_drop=drop,
            dropout_layer={"type": "DropPath", "drop_prob": drop_path},
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return self.ffn(self.norm2(x), x)


class SwinStage(nn.Module):
    """Blocks that shift their windows in turns, and the merging of patches before the next stage.

    x [B, H, W, C] -> input of the next stage [B, H / 2, W / 2, 2 C], and its own output.
    """

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        return (x if self.downsample is None else self.downsample(x)), x


@MODELS.register_module()
class SwinTransformer(nn.Module):
    """x [B, 3, H, W] -> the normed feature maps of `out_indices`, stage i at stride 4 * 2**i.

    `drop_path_rate` grows linearly over the blocks. `frozen_stages` n freezes the patch embedding
    (0) and the first n stages. With `use_abs_pos_embed` positions for images of
    `pretrain_img_size` are added, resized to other images. `with_cp` (recomputation to save
    memory) changes no result and is ignored, as is `convert_weights`: checkpoints of the original
    are recognized by their keys. Source: mmdet/models/backbones/swin.py.
    """

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: Config = GELU,
        norm_cfg: Config = LAYER_NORM,
        with_cp: bool = False,
        pretrained: str | None = None,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        _check(patch_size, depths, num_heads, strides, out_indices)
        self.init_cfg = init_cfg or (
            {"type": "Pretrained", "checkpoint": pretrained} if pretrained else None
        )
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        merging_norm = norm_cfg if patch_norm else None
        self.absolute_pos_embed: nn.Parameter | None = None
        self.pretrain_cells = _cells(pretrain_img_size, patch_size)
        if use_abs_pos_embed:
            rows, columns = self.pretrain_cells
            self.absolute_pos_embed = nn.Parameter(
                torch.zeros(1, rows * columns, embed_dims, device=parameter_device(None))
            )
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size, merging_norm)
        self.drop_after_pos = nn.Dropout(drop_rate)
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        self.num_features = [embed_dims * 2**i for i in range(len(depths))]
        for i, width in enumerate(self.num_features):
            blocks = [
                SwinBlock(
                    width,
                    num_heads[i],
                    int(mlp_ratio * width),
                    next(drop_paths),
                    drop_rate,
                    act_cfg,
                    norm_cfg,
                    window_size=window_size,
                    shift=block % 2 == 1,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    attn_drop=attn_drop_rate,
                )
                for block in range(depths[i])
            ]
            merging = None
            if i < len(depths) - 1:
                merging = PatchMerging(width, 2 * width, strides[i + 1], merging_norm)
            self.stages.append(SwinStage(blocks, merging))
        for i in self.out_indices:
            self.add_module(f"norm{i}", build_norm(norm_cfg, self.num_features[i]))
        self._initialize()
        self._freeze()

    def _initialize(self) -> None:
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos]
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f"norm{i}"))
        freeze(frozen)
        if self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad = False

    def train(self, mode: bool = True) -> "SwinTransformer":
        super().train(mode)
        self._freeze()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.patch_embed(x)  # [B, H / 4, W / 4, C]
        if self.absolute_pos_embed is not None:
            x = x + self._positions(x.shape[1], x.shape[2])
        x = self.drop_after_pos(x)
        maps = []
        for i in range(max(self.out_indices) + 1):
            x, out = self.stages[i](x)
            if i in self.out_indices:
                out = getattr(self, f"norm{i}")(out)
                maps.append(out.permute(0, 3, 1, 2).contiguous())  # [B, C, h, w]
        return tuple(maps)

    def _positions(self, height: int, width: int) -> Tensor:
        """The absolute positions for a map of this size: [1, h, w, C]."""
        assert self.absolute_pos_embed is not None
        table = torch.unflatten(self.absolute_pos_embed, 1, self.pretrain_cells)
        if (height, width) == self.pretrain_cells:
            return table
        maps = F.interpolate(table.permute(0, 3, 1, 2), size=(height, width), mode="bicubic")
        return maps.permute(0, 2, 3, 1)


def _cells(size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    sides = [size] * 2 if isinstance(size, int) else [*size] * (2 if len(size) == 1 else 1)
    if len(sides) != 2:
        raise ValueError(f"pretrain_img_size is a side or (height, width), got {size!r}")
    return sides[0] // patch_size, sides[1] // patch_size


def _check(
    patch_size: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    strides: Sequence[int],
    out_indices: Sequence[int],
) -> None:
    stages = len(depths)
    if not len(num_heads) == len(strides) == stages:
        raise ValueError(
            f"depths, num_heads and strides need one number per stage, got {stages}, "
            f"{len(num_heads)} and {len(strides)}"
        )
    if strides[0] != patch_size:
        raise ValueError(f"strides[0] is {strides[0]}, but patches do not overlap: {patch_size}")
    if not out_indices or not 0 <= min(out_indices) <= max(out_indices) < stages:
        raise ValueError(f"out_indices {tuple(out_indices)}: there are {stages} stages")
