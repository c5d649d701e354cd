"""Self-attention within windows of a map, with a learned bias for each relative position.

Letters: B images, H and W the map, C channels, S the side of a window, N = S * S cells of a window,
K windows of an image, M heads. Source: "Swin Transformer" (arXiv 2103.14030), section 3.2;
mmdet/models/backbones/swin.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn

MASKED = -100.0  # added where two cells of a shifted window are not neighbors in the map


class WindowMSA(nn.Module):
    """windows [B * K, N, C] and mask [K, N, N] or None -> [B * K, N, C].

    State keys relative_position_bias_table [(2 S - 1)^2, M], relative_position_index [N, N], qkv,
    proj.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.attn_drop = attn_drop
        table = torch.zeros((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", relative_positions(window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self) -> Tensor:
        """What is added to the attention logits for each pair of cells: [1, M, N, N]."""
        index = self.relative_position_index
        bias = self.relative_position_bias_table[index.flatten()]
        return bias.view(*index.shape, -1).permute(2, 0, 1)[None]

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        count, N, C = windows.shape
        qkv = self.qkv(windows).view(count, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B * K, M, N, C / M]
        bias = self.bias()
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(count // len(mask), 1, 1, 1)  # [B * K, M, N, N]
        dropped = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropped, scale=self.scale)
        x = x.transpose(1, 2).reshape(count, N, C)
        return self.proj_drop(self.proj(x))


class ShiftWindowMSA(nn.Module):
    """x [B, H, W, C] -> [B, H, W, C]; with `shift` windows start half a window further.

    The map is zero-padded to whole windows. With a shift it is rolled, so that the windows at its
    end hold cells from both ends; these do not attend to each other. State keys w_msa.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shift: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift_size = window_size // 2 if shift else 0
        self.w_msa = WindowMSA(
            embed_dims, num_heads, window_size, qkv_bias, qk_scale, attn_drop, proj_drop
        )
        self.drop = nn.DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        S, shift = self.window_size, self.shift_size
        bottom, right = -H % S, -W % S
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = H + bottom, W + right
        mask = None
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
            mask = shifted_mask(rows, columns, S, shift, x)
        windows = window_partition(x, S).flatten(1, 2)  # [B * K, N, C]
        windows = torch.unflatten(self.w_msa(windows, mask), 1, (S, S))
        x = window_reverse(windows, rows, columns)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return self.drop(x[:, :H, :W])


def relative_positions(size: int) -> Tensor:
    """The row of the bias table for each pair of cells of a window: [N, N], int64."""
    line = torch.arange(size)
    row, column = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))
    down = row[:, None] - row + size - 1
    across = column[:, None] - column + size - 1
    return down * (2 * size - 1) + across


def window_partition(x: Tensor, size: int) -> Tensor:
    """[B, H, W, C] -> [B * K, S, S, C], the windows of an image one after the other."""
    C = x.shape[-1]
    x = torch.unflatten(
        torch.unflatten(x, 2, (-1, size)), 1, (-1, size)
    )  # [B, H / S, S, W / S, S, C]
    return x.transpose(2, 3).reshape(-1, size, size, C)


def window_reverse(windows: Tensor, height: int, width: int) -> Tensor:
    """[B * K, S, S, C] -> [B, H, W, C]."""
    size, C = windows.shape[2:]
    x = windows.view(-1, height // size, width // size, size, size, C)
    return x.transpose(2, 3).reshape(-1, height, width, C)


def shifted_mask(height: int, width: int, size: int, shift: int, like: Tensor) -> Tensor:
    """MASKED for pairs of cells that the roll made neighbors, else 0: [K, N, N]."""
    rows, columns = (
        (line >= side - size).long() + (line >= side - shift).long()
        for side in (height, width)
        for line in (torch.arange(side, device=like.device),)
    )
    region = (3 * rows[:, None] + columns)[None, :, :, None]  # [1, H, W, 1]
    region = window_partition(region, size).flatten(1)
    apart = region[:, None] != region[:, :, None]
    return torch.where(apart, MASKED, 0.0).to(like.dtype)
