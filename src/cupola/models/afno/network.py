"""AFNONet: FourCastNet's network (arXiv 2202.11214), a transformer whose attention is a filter.

Original: NVlabs/FourCastNet networks/afnonet.py; parameter names are the original's.
Letters: B samples, C channels, H rows, W columns, h x w tokens, D width, P patch.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError, did_you_mean
from cupola.models.afno.filter import AFNO2D
from cupola.models.afno.layers import Block, PatchEmbed, pair
from cupola.models.afno.mlp import Mlp
from cupola.models.afno.operator import FieldOperator
from cupola.nn.meta import parameter_device
from cupola.registry import MODELS


@dataclass(frozen=True)
class AFNOSettings:
    """FourCastNet's defaults: 0.25 degrees, 20 channels, 74,691,840 parameters."""

    img_size: tuple[int, int] = (720, 1440)
    patch_size: tuple[int, int] = (8, 8)
    in_chans: int = 20
    out_chans: int = 20
    embed_dim: int = 768
    depth: int = 12
    mlp_ratio: float = 4.0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0  # of the last block; the first has 0
    num_blocks: int = 8  # afnonet.py defaults to 16, but the published configs set 8
    sparsity_threshold: float = 0.01
    hard_thresholding_fraction: float = 1.0
    double_skip: bool = True
    modes: str = "fourcastnet"  # see cupola.models.afno.modes
    init_std: float = 0.02  # of MLP and filter weights; narrow networks train better with about 0.1
    mode_gain: bool = False  # a learned factor for each mode, see AFNO2D; not for any_grid
    exact: bool = False  # bit equality with the original filter, see AFNO2D
    mlp_dtype: str | None = None  # "bfloat16" computes the MLPs in bfloat16
    final_norm: bool = True  # a norm that checkpoints contain but the forward pass does not use
    pad: bool = False  # pad grids that do not divide into patches
    any_grid: bool = False  # accept grids other than img_size, resizing the position embedding
    residual: bool = False  # predict the change of the state instead of the next state
    latitude_weights: bool = False  # in the loss

    @staticmethod
    def of(**keys: Any) -> "AFNOSettings":
        """Settings from config keys; BuildError for an unknown one."""
        known = [field.name for field in fields(AFNOSettings)]
        for key in keys:
            if key not in known:
                raise BuildError(f"AFNONet has no setting {key!r}{did_you_mean(key, known)}")
        for key in {"img_size", "patch_size"} & set(keys):
            keys[key] = pair(keys[key])
        return AFNOSettings(**keys)


def make_block(settings: AFNOSettings, index: int, grid: tuple[int, int]) -> Block:
    """Block `index` of `settings.depth` for a token grid; drop path grows linearly."""
    dim = settings.embed_dim
    mixer = AFNO2D(
        dim,
        settings.num_blocks,
        settings.sparsity_threshold,
        settings.hard_thresholding_fraction,
        modes=settings.modes,
        exact=settings.exact,
        gain_grid=grid if settings.mode_gain else None,
    )
    dtype = getattr(torch, settings.mlp_dtype) if settings.mlp_dtype else None
    mlp = Mlp(dim, int(dim * settings.mlp_ratio), settings.drop_rate, dtype)
    drop_path = settings.drop_path_rate * index / max(settings.depth - 1, 1)
    return Block(mixer, mlp, dim, drop_path, settings.double_skip)


@MODELS.register_module(["AFNONet", "FourCastNet", "AFNO"])
class AFNONet(FieldOperator):
    """Patch embedding, position, blocks, linear head: [B, C_in, H, W] -> [B, C_out, H, W].

    Takes AFNOSettings, or its fields as keywords.
    """

    def __init__(self, settings: AFNOSettings | None = None, **keys: Any) -> None:
        settings = settings or AFNOSettings.of(**keys)
        super().__init__(settings.latitude_weights)
        self.settings = settings
        dim = settings.embed_dim
        self.patch_embed = PatchEmbed(
            settings.img_size,
            settings.patch_size,
            settings.in_chans,
            dim,
            pad=settings.pad,
            any_grid=settings.any_grid,
        )
        shape = (1, self.patch_embed.num_patches, dim)
        self.pos_embed = nn.Parameter(torch.zeros(shape, device=parameter_device(None)))
        self.pos_drop = nn.Dropout(settings.drop_rate)
        self.blocks = nn.ModuleList(
            [make_block(settings, i, self.patch_embed.grid) for i in range(settings.depth)]
        )
        if settings.final_norm:
            self.norm = nn.LayerNorm(dim, eps=1e-6)
        rows, columns = settings.patch_size
        self.head = nn.Linear(dim, settings.out_chans * rows * columns, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        for block in self.blocks:
            for layer in (block.mlp.fc1, block.mlp.fc2):
                nn.init.trunc_normal_(layer.weight, std=self.settings.init_std)
                nn.init.zeros_(layer.bias)
            for weight in (block.filter.w1, block.filter.w2):
                nn.init.normal_(weight, std=self.settings.init_std)

    def positions(self, h: int, w: int) -> Tensor:
        """The position embedding for h x w tokens, [1, h * w, D]; resized for other grids."""
        if (h, w) == self.patch_embed.grid:
            return self.pos_embed
        grid = torch.unflatten(self.pos_embed, 1, self.patch_embed.grid).permute(0, 3, 1, 2)
        resized = F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """[C_in, H, W] of an input."""
        return (self.settings.in_chans, *self.settings.img_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """Embeds and mixes: [B, C_in, H, W] -> tokens [B, h, w, D]."""
        h, w = self.patch_embed.tokens(*x.shape[-2:])
        tokens = self.pos_drop(self.patch_embed(x) + self.positions(h, w))
        tokens = torch.unflatten(tokens, 1, (h, w))  # [B, h, w, D]
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def unpatch(self, patches: Tensor) -> Tensor:
        """Patches [B, h, w, P * P * C_out] -> fields [B, C_out, h * P, w * P]."""
        B, h, w, _ = patches.shape
        rows, columns = self.settings.patch_size
        pixels = patches.view(B, h, w, rows, columns, self.settings.out_chans)
        pixels = pixels.permute(0, 5, 1, 3, 2, 4)  # [B, C_out, h, P, w, P]
        if patches.device.type == "cpu" and not torch.is_grad_enabled() and not _is_traced():
            pixels = _copied_by_rows(pixels)
        return pixels.reshape(B, -1, h * rows, w * columns)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H, W]."""
        H, W = x.shape[-2:]
        y = self.unpatch(self.head(self.forward_features(x)))[..., :H, :W]
        return y + x[:, : y.shape[1]] if self.settings.residual else y


def _is_traced() -> bool:
    return torch.compiler.is_exporting() or torch.compiler.is_compiling()


def _copied_by_rows(pixels: Tensor) -> Tensor:
    """A contiguous copy of [B, C, h, P, w, P], one row of patches at a time, in the cache.

    At once, the copy of FourCastNet's fields takes three times as long.
    """
    out = torch.empty(pixels.shape, dtype=pixels.dtype)
    for source, place in zip(pixels.unbind(2), out.unbind(2), strict=True):
        place.copy_(source)
    return out
