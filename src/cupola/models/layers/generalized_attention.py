"""Generalized attention (arXiv 1904.05873): four kinds of attention between cells, each optional.

Letters: B batch, n heads, d channels per head, h and w cells of queries, k and m cells of keys.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS

WAVE_LENGTH = 1000


@MODELS.register_module()
class GeneralizedAttention(nn.Module):
    """x [B, C, H, W] -> x + gamma * attention(x), of the same shape.

    `attention_type` switches the terms of the attention: query and key content, query content and
    relative position, key content alone, relative position alone. Queries and keys are taken every
    `q_stride` and `kv_stride` cells. With the second term and without the fourth, as in GRoIE,
    maps are square: mmcv then takes the queries of the transposed map for the rows.
    Source: mmcv/cnn/bricks/generalized_attention.py.
    """

    plugin_name = "gen_attention_block"
    own_initialization = True

    def __init__(
        self,
        in_channels: int,
        spatial_range: int = -1,
        num_heads: int = 9,
        position_embedding_dim: int = -1,
        position_magnitude: int = 1,
        kv_stride: int = 2,
        q_stride: int = 1,
        attention_type: str = "1111",
    ) -> None:
        super().__init__()
        if spatial_range >= 0:
            raise ValueError(f"spatial_range {spatial_range} is not supported, only -1: all cells")
        if len(attention_type) != 4 or set(attention_type) - {"0", "1"}:
            raise ValueError(f"attention_type is four digits, 0 or 1, got {attention_type!r}")
        self.terms = tuple(digit == "1" for digit in attention_type)
        self.heads = num_heads
        self.width = in_channels // num_heads
        self.embedding = position_embedding_dim if position_embedding_dim > 0 else in_channels
        self.magnitude = position_magnitude
        self.kv_stride = kv_stride
        self.q_stride = q_stride
        total = self.width * num_heads
        content, geometry, saliency, position = self.terms
        self.query_conv = self.key_conv = self.appr_geom_fc_x = self.appr_geom_fc_y = None
        if content or geometry:
            self.query_conv = nn.Conv2d(in_channels, total, 1, bias=False)
        if content or saliency:
            self.key_conv = nn.Conv2d(in_channels, total, 1, bias=False)
        self.value_conv = nn.Conv2d(in_channels, total, 1, bias=False)
        if geometry or position:
            self.appr_geom_fc_x = nn.Linear(self.embedding // 2, total, bias=False)
            self.appr_geom_fc_y = nn.Linear(self.embedding // 2, total, bias=False)
        bound = 1 / math.sqrt(self.width * 2)
        self.appr_bias = self.geom_bias = None
        if saliency:
            self.appr_bias = nn.Parameter(torch.empty(total).uniform_(-bound, bound))
        if position:
            self.geom_bias = nn.Parameter(torch.empty(total).uniform_(-bound, bound))
        self.proj_conv = nn.Conv2d(total, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight, a=1)
        if self.proj_conv.bias is not None:
            nn.init.zeros_(self.proj_conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        source = x[..., :: self.q_stride, :: self.q_stride]
        other = x[..., :: self.kv_stride, :: self.kv_stride]
        attention = self._energy(source, other).flatten(4).softmax(-1)  # [B, n, h, w, k * m]
        values = torch.unflatten(self.value_conv(other).flatten(2), 1, (self.heads, self.width))
        out = torch.einsum("bnhwk,bndk->bndhw", attention, values).flatten(1, 2)
        out = self.proj_conv(out)
        if self.q_stride > 1:
            out = F.interpolate(out, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x + self.gamma * out

    def _energy(self, source: Tensor, other: Tensor) -> Tensor:
        """The sum of the terms: [B, n, h or 1, w or 1, k, m]."""
        content, geometry, _, position = self.terms
        terms: list[Tensor] = []
        queries = None
        if self.query_conv is not None:
            queries = self._split(self.query_conv(source)).movedim(2, -1)  # [B, n, h, w, d]
        if self.key_conv is not None:
            keys = self._split(self.key_conv(other))  # [B, n, d, k, m]
            left = _sum(queries if content else None, self._bias(self.appr_bias))
            left = left.expand(len(keys), -1, -1, -1, -1)
            terms.append(torch.einsum("bnhwd,bndkm->bnhwkm", left, keys))
        if geometry or position:
            left = _sum(queries if geometry else None, self._bias(self.geom_bias))
            rows, columns = self._positions(source, other)
            terms.append(torch.einsum("bnhwd,wmnd->bnhwm", left, columns).unsqueeze(4))
            if not position:
                left = _transposed(left)
            terms.append(torch.einsum("bnhwd,hknd->bnhwk", left, rows).unsqueeze(5))
        if not terms:
            h, w, k, m = *source.shape[2:], *other.shape[2:]
            return source.new_zeros(len(source), self.heads, h, w, k, m)
        return sum(terms[1:], terms[0])

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (self.heads, self.width))

    def _bias(self, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias.view(1, self.heads, 1, 1, self.width)

    def _positions(self, source: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded differences of rows [h, k, n, d] and of columns [w, m, n, d]."""
        assert self.appr_geom_fc_x is not None and self.appr_geom_fc_y is not None
        embedded = []
        for axis, linear in ((2, self.appr_geom_fc_y), (3, self.appr_geom_fc_x)):
            ours = torch.arange(source.shape[axis], device=source.device).to(source.dtype)
            theirs = torch.arange(other.shape[axis], device=source.device).to(source.dtype)
            apart = (ours[:, None] * self.q_stride - theirs * self.kv_stride) * self.magnitude
            waves = linear(self._waves(apart)) / math.sqrt(2)
            embedded.append(torch.unflatten(waves, -1, (self.heads, self.width)))
        return embedded[0], embedded[1]

    def _waves(self, differences: Tensor) -> Tensor:
        """[h, k] -> [h, k, embedding / 2]: sines, then cosines."""
        count = math.ceil(self.embedding / 4)
        # with its type: torch.onnx makes whole numbers of a range up to 64.0
        steps = torch.arange(count, device=differences.device, dtype=differences.dtype)
        lengths = WAVE_LENGTH ** (4.0 / self.embedding * steps)
        angles = differences[..., None] / lengths
        return torch.cat((angles.sin(), angles.cos()), -1)


def _transposed(queries: Tensor) -> Tensor:
    """Queries [B, n, h, w, d] with rows and columns exchanged; ValueError if h is not w."""
    height, width = queries.shape[2:4]
    if height != width:
        raise ValueError(
            "attention_type with the second term and without the fourth takes square maps, as in "
            f"mmcv; got {height} x {width}"
        )
    return queries.transpose(2, 3)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor:
    parts = [part for part in (first, second) if part is not None]
    return sum(parts[1:], parts[0])
