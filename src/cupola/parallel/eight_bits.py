"""EightBitMatrix: a matrix in eight bits, and the kernels that multiply it.

Numbers are rounded to whole multiples of a scale for each row, of the weights and of x. The sum of
their products is exact, so a row's result does not depend on its neighbors, nor on the number of
threads. Which kernels sum exactly is asked at run time:

- FBGEMM reads int8 weights at nearly the speed of the memory, for one row or for ten. Without
  AVX-512 VNNI it adds two products in sixteen bits first, so x is rounded to seven bits there.
- oneDNN's int8 product; without VNNI it saturates.

Letters: R rows of x, I inputs, O outputs.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

LARGEST = 127  # of a symmetric eight-bit number
TINY = 1e-30  # keeps the scale of a row of zeros positive
AT_ONCE = 512  # rows that are rounded together, so that intermediate results stay in the cache
PIECE = 1 << 16  # outputs that FBGEMM packs at a time: it needs a copy of them for a moment

Parts = Iterable[tuple[Tensor, Tensor]]  # int8 rows [n, I] and their scales [n]
Product = Callable[[Tensor], Tensor]


class FbgemmProduct:
    """Whole numbers [R, I] -> their products with all rows, times the rows' scales, [R, O]."""

    def __init__(self, rows: Tensor, scales: Tensor, largest: int) -> None:
        pairs = zip(torch.split(rows, PIECE), torch.split(scales, PIECE), strict=True)
        self._zero = largest + 1  # FBGEMM takes x in 0..255
        self._pieces = [_packed(*pair) for pair in pairs]

    def __call__(self, x: Tensor) -> Tensor:
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        parts = [multiply(x, 1.0, self._zero, piece) for piece in self._pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class OnednnProduct:
    """The same with oneDNN's product of int8 matrices."""

    def __init__(self, rows: Tensor, scales: Tensor, largest: int) -> None:
        self._rows, self._scales = rows, scales

    def __call__(self, x: Tensor) -> Tensor:
        return torch._int_mm(x.to(torch.int8), self._rows.t()) * self._scales


class FloatProduct:
    """The same on any machine, slowly: exact up to float32's rounding."""

    def __init__(self, rows: Tensor, scales: Tensor, largest: int) -> None:
        self._rows, self._scales = rows, scales

    def __call__(self, x: Tensor) -> Tensor:
        return (x @ self._rows.float().t()) * self._scales


# In order of preference, with the largest number that x is rounded to.
KERNELS: dict[str, tuple[Callable[[Tensor, Tensor, int], Product], int]] = {
    "fbgemm": (FbgemmProduct, 127),
    "fbgemm 7 bits": (FbgemmProduct, 63),
    "onednn": (OnednnProduct, 127),
}


class EightBitMatrix:
    """W [O, I] as int8 with a scale for each row; x is rounded row by row as well.

    `kernel` is one of `exact_kernels()`, by default the first.
    """

    def __init__(
        self, weight: Tensor, parts: Parts | None = None, kernel: str | None = None
    ) -> None:
        """`parts`: what `rounded_parts(weight)` gives, if the caller has it already."""
        pairs = list(rounded_parts(weight) if parts is None else parts)
        rows = torch.cat([rows for rows, _ in pairs])  # [O, I] int8
        scales = torch.cat([scales for _, scales in pairs])  # [O]
        default = next(iter(exact_kernels()), "")
        build, self.largest = KERNELS.get(kernel or default, (FloatProduct, LARGEST))
        self.outputs = len(rows)
        self._product = build(rows, scales, self.largest)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O] in the type of x."""
        rows, scales = self.rounded(x.reshape(-1, x.shape[-1]))
        y = self.product(rows, scales)
        y = y if bias is None else y + bias
        return y.to(x.dtype).view(*x.shape[:-1], self.outputs)

    def rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R, I] -> whole numbers in float32 [R, I] and the scale [R] of each row."""
        return rounded(x, self.largest)

    def product(self, rows: Tensor, scales: Tensor) -> Tensor:
        """What `rounded` gives -> [R, O] float32."""
        return self._product(rows).mul_(scales[:, None])


def rounded(x: Tensor, largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """[R, I] -> whole numbers up to `largest` in float32 [R, I], and the scale [R] of each row."""
    wide = x.float()
    scales = wide.abs().amax(1).clamp_(min=TINY) / largest
    return (wide / scales[:, None]).round_(), scales


def rounded_parts(weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of a matrix [O, I] in int8, a few at a time, and their scales."""
    for part in torch.split(weight.detach(), AT_ONCE):
        rows, scales = rounded(part)
        yield rows.to(torch.int8), scales


@cache
def exact_kernels() -> tuple[str, ...]:
    """Which of KERNELS this machine has, that add int8 products without saturating."""
    found = [name for name, (build, largest) in KERNELS.items() if _is_exact(build, largest)]
    return tuple(n for n in found if n != "fbgemm 7 bits" or "fbgemm" not in found)


def has_exact_int8_product() -> bool:
    """Whether this machine has a kernel that adds int8 products without saturating."""
    return bool(exact_kernels())


def _is_exact(build: Callable[[Tensor, Tensor, int], Product], largest: int) -> bool:
    rows = torch.full((32, 64), LARGEST, dtype=torch.int8)
    x = torch.full((8, 64), float(largest))
    try:
        product = build(rows, torch.ones(32), largest)
        whole = torch.cat([product(x), -product(-x)])
    except (RuntimeError, AttributeError):  # not compiled, or removed from torch
        return False
    return bool((whole == 64 * LARGEST * largest).all())


def _packed(rows: Tensor, scales: Tensor) -> Any:
    with warnings.catch_warnings():  # torch announces that its quantized tensors will go
        warnings.simplefilter("ignore", UserWarning)
        zeros = torch.zeros(len(rows), dtype=torch.long)
        matrix = torch._make_per_channel_quantized_tensor(rows, scales.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(matrix, None)
