"""Patch embedding, and the block around the filter.

Original: NVlabs/FourCastNet networks/afnonet.py. Letters: B samples, H x W tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError, InputError
from cupola.models.afno.filter import AFNO2D
from cupola.models.afno.mlp import SLICE, Mlp


def pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """(rows, columns) from one number or two."""
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return rows, columns


class PatchEmbed(nn.Module):
    """Cuts fields into patches and projects each: [B, C_in, H, W] -> [B, H' * W', C].

    pad: fields that do not divide into patches are padded, periodically in longitude and by
        repeating the last row in latitude; without it they are an error.
    any_grid: accept grids other than `img_size` (the position embedding must then be resized).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        in_chans: int,
        embed_dim: int,
        *,
        pad: bool = False,
        any_grid: bool = False,
    ) -> None:
        super().__init__()
        self.img_size, self.patch_size = pair(img_size), pair(patch_size)
        self.pad, self.any_grid = pad, any_grid
        if not pad and any(self._excess(self.img_size)):
            raise BuildError(
                f"a grid of {self.img_size[0]} x {self.img_size[1]} does not divide into patches"
                f" of {self.patch_size[0]} x {self.patch_size[1]};"
                " choose another patch_size or set pad=True"
            )
        self.grid = self.tokens(*self.img_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, stride=self.patch_size)

    def tokens(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of a field of that size, padding included."""
        rows, columns = self.patch_size
        return -(-height // rows), -(-width // columns)

    def _excess(self, size: tuple[int, int]) -> tuple[int, int]:
        return -size[0] % self.patch_size[0], -size[1] % self.patch_size[1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, H' * W', C]; InputError for a grid it was not built for."""
        size = (x.shape[-2], x.shape[-1])
        if x.ndim != 4 or x.shape[1] != self.proj.in_channels:
            raise InputError(
                f"the model takes [B, {self.proj.in_channels}, H, W], got {list(x.shape)}"
            )
        if size != self.img_size and not self.any_grid:
            raise InputError(
                f"the model was built for a grid of {self.img_size[0]} x {self.img_size[1]},"
                f" got {size[0]} x {size[1]}; build it with any_grid=True to take both"
            )
        bottom, right = self._excess(size)
        if (bottom or right) and not self.pad:
            raise InputError(f"a grid of {size[0]} x {size[1]} does not divide into patches")
        if right:
            x = F.pad(x, (0, right, 0, 0), mode="circular")
        if bottom:
            x = F.pad(x, (0, 0, 0, bottom), mode="replicate")
        return self.proj(x).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """norm1, filter, (residual,) norm2, MLP, residual: [B, H, W, C] -> [B, H, W, C].

    double_skip: a second residual connection, around the filter (FourCastNet's setting). Drop path
    covers the MLP only, as in the original.
    """

    def __init__(
        self, mixer: AFNO2D, mlp: Mlp, dim: int, drop_path: float = 0.0, double_skip: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.filter = mixer
        self.drop_path = nn.DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.double_skip = double_skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        if torch.compiler.is_exporting():  # a program has no operations in place
            mixed = self.filter(self.norm1(x))
            mixed = mixed + x if self.double_skip else mixed
            return self.mlp(self.norm2(mixed)) + (mixed if self.double_skip else x)
        mixed = self.filter(self.norm1(x))
        residual = mixed.add_(x) if self.double_skip else x
        if torch.is_grad_enabled() or self.training or x.device.type != "cpu":
            return self.drop_path(self.mlp(self.norm2(mixed))) + residual
        return self._in_slices(mixed.contiguous(), residual)

    def _in_slices(self, mixed: Tensor, residual: Tensor) -> Tensor:
        tokens, skips = mixed.flatten(0, 2), residual.flatten(0, 2)
        for part, skip in zip(torch.split(tokens, SLICE), torch.split(skips, SLICE), strict=True):
            torch.add(self.mlp(self.norm2(part)), skip, out=part)
        return mixed
