"""Matrices as they are kept for inference: in oneDNN's own layout, or in eight bits.

Generating one token reads every weight once, so its time is the weights' bytes over the memory
bandwidth, or the time of the kernel that unpacks them. Both classes are called as `linear` is.

Letters: R rows of x, I inputs, O outputs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

LARGEST = 127  # of a symmetric eight-bit number
TINY = 1e-30  # keeps the scale of a row of zeros positive
AT_ONCE = 512  # rows that are rounded together, so that intermediate results stay in the cache


class PackedMatrix:
    """W [O, I] laid out for oneDNN's kernels; the product is the same. See `packs`."""

    def __init__(self, weight: Tensor) -> None:
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return y


class EightBitMatrix:
    """W [O, I] as int8 with a scale for each row; x is rounded to eight bits row by row as well.

    The product of the rounded numbers is exact, so a row's result does not depend on its
    neighbors.
    """

    def __init__(self, weight: Tensor) -> None:
        pairs = [rounded(part) for part in torch.split(weight.detach(), AT_ONCE)]
        self.rows = torch.cat([rows for rows, _ in pairs])  # [O, I] int8
        self.scales = torch.cat([scales for _, scales in pairs])  # [O]

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O] in the type of x."""
        y = self.product(*rounded(x.reshape(-1, x.shape[-1])))
        y = y if bias is None else y + bias
        return y.to(x.dtype).view(*x.shape[:-1], len(self.rows))

    def product(self, rows: Tensor, scales: Tensor) -> Tensor:
        """int8 [R, I] and their scales [R] -> [R, O] float32."""
        if has_exact_int8_product():
            whole = torch._int_mm(rows, self.rows.t())  # [R, O] int32
        else:
            whole = rows.float() @ self.rows.float().t()
        return whole * scales[:, None] * self.scales


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """[R, I] -> int8 [R, I] and the scale [R] of each row, float32."""
    wide = x.float()
    scales = wide.abs().amax(1).clamp_(min=TINY) / LARGEST
    return (wide / scales[:, None]).round_().to(torch.int8), scales


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this machine multiplies a PackedMatrix of this type; bfloat16 needs AVX-512."""
    weight = torch.ones(16, 16, dtype=dtype)
    try:
        return bool((PackedMatrix(weight)(weight) == 16).all())
    except (RuntimeError, AttributeError):  # unsupported here, or torch was built without oneDNN
        return False


@cache
def has_exact_int8_product() -> bool:
    """Whether this machine's kernel adds int8 products without saturating; AVX2 alone does not."""
    most = torch.full((8, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(most, most.t()) == 64 * LARGEST**2).all())
