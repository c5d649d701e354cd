"""HalfMatrix: a matrix kept in sixteen bits and multiplied in float32.

FBGEMM's kernel reads float16 weights, converts them in registers and adds the products in float32,
with AVX2 or AVX-512. Generating one token therefore reads half the bytes of float32 weights, and
the result is that of float32 arithmetic on the same weights.

Letters: R rows of x, I inputs, O outputs.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 8192  # outputs of one packed piece: packing needs it in float32 for a moment
PANEL = (
    64  # a multiple of the outputs that the kernel computes together; it rounds a rest otherwise
)
TOP = 14  # the largest weight of a row is scaled to 2^14 up to 2^15; float16 ends at 2^16


class HalfMatrix:
    """W [O, I] in float16, each row of a bfloat16 matrix times a power of two where it has to be.

    float16 has more digits than bfloat16 but fewer exponents. The scaled row keeps every weight
    down to 2^-28 of its largest one exactly, and rounds smaller ones to 2^-39 of it.
    """

    def __init__(self, weight: Tensor, pool: Executor | None = None) -> None:
        """With a `pool` its threads pack meanwhile, until `finish` is called."""
        weight = weight.detach()
        self.outputs = len(weight)
        self.scales = None if is_half(weight) else row_scales(weight)
        pieces = torch.split(weight, AT_ONCE)
        scales: Sequence[Tensor | None] = [None] * len(pieces)
        if self.scales is not None:
            scales = torch.split(self.scales, AT_ONCE)
        packed = map if pool is None else pool.map  # which begins at once
        self._pieces: Iterable[Any] = packed(_packed, pieces, scales)
        if pool is None:
            self.finish()

    def finish(self) -> None:
        """Waits until all of it is packed; raises what packing has raised."""
        self._pieces = list(self._pieces)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] float32 -> [..., O] float32."""
        y = joined([torch.ops.quantized.linear_dynamic_fp16(x, piece) for piece in self._pieces])
        y = y if y.shape[-1] == self.outputs else y[..., : self.outputs].contiguous()
        y = y if self.scales is None else y * self.scales
        return y if bias is None else y + bias


def row_scales(weight: Tensor) -> Tensor:
    """[O, I] -> the power of two [O] by which each row is divided for float16, float32."""
    largest = torch.cat([part.float().abs().amax(1) for part in torch.split(weight, AT_ONCE)])
    _, exponent = torch.frexp(largest)  # 2^(exponent - 1) <= largest < 2^exponent
    biased = (exponent - 1 - TOP + 127).clamp(min=1)  # the exponent field of a float32
    return torch.where(largest > 0, (biased << 23).view(torch.float32), 1.0)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Outputs of the pieces, side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def _packed(weight: Tensor, scales: Tensor | None) -> Any:
    wide = weight.float() if scales is None else weight.float() / scales[:, None]
    if rest := len(wide) % PANEL:
        wide = F.pad(wide, (0, 0, 0, PANEL - rest))
    return torch.ops.quantized.linear_prepack_fp16(wide, None)


def is_half(weight: Tensor) -> bool:
    """Whether float16 holds every weight exactly."""
    if weight.dtype == torch.float16:
        return True
    return all(torch.equal(p.half().to(p.dtype), p) for p in torch.split(weight, AT_ONCE))


@cache
def multiplies_half() -> bool:
    """Whether this machine has the kernel of HalfMatrix."""
    weight = torch.full((16, 16), 2.0**-24, dtype=torch.float16)
    try:
        return bool((HalfMatrix(weight)(torch.ones(2, 16)) == 2.0**-20).all())
    except (RuntimeError, AttributeError):
        return False
