"""Products whose rows do not depend on each other, and sums that are the same at every p.

A row of x W^T is usually rounded differently beside one neighbor than beside ten: the number of
rows chooses the kernel, and the kernel the order of its additions. The matrices here give each
output the same bits whatever the number of rows, the number of threads and the other outputs are.
The sums over the inputs are made of PARTS partial sums, added in pairs, however many ranks hold
the inputs.

Letters: R rows of x, I inputs and O outputs on this rank, P ranks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.parallel.communicate import gather_list
from cupola.parallel.eight_bits import EightBitMatrix, has_exact_int8_product
from cupola.parallel.groups import Group
from cupola.parallel.half_matrix import HalfMatrix, multiplies_half
from cupola.parallel.storage import PackedMatrix, packs

PARTS = 4  # the largest number of ranks whose results equal those of one process
TRIED = (2, 3, 5, 8, 13, 16, 17, 33)  # numbers of rows that `is_independent` compares
FEW = 37  # outputs that it computes by themselves
AT_ONCE = 512  # outputs that DotProducts computes together, so that they stay in the cache

Product = Callable[[Tensor, Tensor | None], Tensor]
_tried: dict[tuple[Any, ...], bool] = {}


class PairedRows:
    """W [O, I] packed for oneDNN, which multiplies two rows and more in one way, one in another."""

    def __init__(self, weight: Tensor) -> None:
        self._matrix = PackedMatrix(weight)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O]."""
        rows = x.reshape(-1, x.shape[-1])  # [R, I]
        if len(rows) == 1:
            return self._matrix(rows.expand(2, -1), bias)[:1].view(*x.shape[:-1], -1)
        return self._matrix(x, bias)


class DotProducts:
    """W [O, I] with each product summed by itself: slow, and the same on any processor."""

    def __init__(self, weight: Tensor) -> None:
        self._pieces = torch.split(weight.detach(), AT_ONCE)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O]."""
        rows = x.reshape(-1, x.shape[-1])  # [R, I]
        pieces = [piece.to(x.dtype) for piece in self._pieces]
        y = x.new_empty(len(rows), sum(map(len, pieces)))  # [R, O]
        for row, out in zip(rows, y, strict=True):
            torch.cat([(piece * row).sum(1) for piece in pieces], out=out)
        y = y.view(*x.shape[:-1], y.shape[1])
        return y if bias is None else y + bias


class InputParts:
    """W [O, I] as the products of its parts [O, I P / PARTS], whose sum is left to the caller."""

    def __init__(self, weight: Tensor, group: Group, int8: bool) -> None:
        width = weight.shape[1] * group.size // math.gcd(weight.shape[1] * group.size, PARTS)
        self.width = min(width, weight.shape[1])
        parts = torch.split(weight.detach(), self.width, 1)
        self._parts = [independent(part.contiguous(), int8) for part in parts]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """x [..., I] -> the partial results, each [..., O]."""
        parts = torch.split(x, self.width, -1)
        return [matrix(x.contiguous(), None) for matrix, x in zip(self._parts, parts, strict=True)]


def independent(weight: Tensor, int8: bool = False) -> Product:
    """The fastest product with this weight [O, I] whose rows are independent on this machine."""
    if int8 and has_exact_int8_product():
        return EightBitMatrix(weight)
    kinds: list[Callable[[Tensor], Product]] = []
    if weight.dtype in (torch.float16, torch.bfloat16) and multiplies_half():
        kinds.append(HalfMatrix)
    if weight.dtype == torch.float32 and packs(weight.dtype):
        kinds.append(PairedRows)
    for kind in kinds:
        matrix, shape = kind(weight), (kind, *weight.shape)
        if shape not in _tried:
            _tried[shape] = is_independent(kind, matrix, weight)
        if _tried[shape]:
            return matrix
    return DotProducts(weight)


def is_independent(kind: Callable[[Tensor], Product], matrix: Product, weight: Tensor) -> bool:
    """Whether random rows, and the first outputs, have the same bits alone and together."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * max(TRIED), weight.shape[1], generator=generator)
    whole = matrix(x, None)
    few = kind(weight[:FEW].contiguous())(x[:3], None)
    rows = [(start, start + 1) for start in (0, 7)] + [(n - 1, 2 * n - 1) for n in TRIED]
    return torch.equal(few, whole[:3, :FEW]) and all(
        torch.equal(matrix(x[a:b], None), whole[a:b]) for a, b in rows
    )


def sum_in_pairs(partials: Sequence[Tensor], group: Group) -> Tensor:
    """The sum over all ranks' partial results, in an order that depends on their number alone.

    Neighbors are added first, so that ranks which hold two neighbors may add them.
    """
    own = _added(partials)
    return own if group.size == 1 else _added(gather_list(own, group))


def _added(parts: Sequence[Tensor]) -> Tensor:
    while len(parts) > 1:
        pairs = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, *parts[len(pairs) * 2 :]]
    return parts[0]
