"""FourBitMatrix: a matrix in four bits, with a scale and an offset for each group of inputs.

torch's kernel widens the numbers in registers and multiplies them by x in bfloat16. It saves memory
rather than time: it is bound by its arithmetic, so that one row takes less time than with eight
bits only in small matrices on a processor with AVX-512, and many rows take longer everywhere.

Letters: R rows of x, I inputs, O outputs, G groups of inputs.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 32  # inputs that share a scale and an offset: together five bits a weight
LARGEST = 15
MIDDLE = 8  # the number that stands for the offset itself
PANEL = 64  # outputs that the kernel computes together, at most
AT_ONCE = 128 * PANEL  # outputs that are packed together: they are int32 for a moment
TINY = 1e-30  # keeps the scale of a group of equal weights positive


class FourBitMatrix:
    """W [O, I] in four bits; x and the result are rounded to bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        self.outputs, inputs = weight.shape
        self._padding = -inputs % GROUP
        packed = [_packed(part) for part in torch.split(weight.detach(), AT_ONCE)]
        self._numbers = torch.cat([numbers for numbers, _ in packed])
        self._scales = torch.cat([scales for _, scales in packed], 1)  # [G, O padded, 2]

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O] in the type of x."""
        rows = F.pad(x.reshape(-1, x.shape[-1]).bfloat16(), (0, self._padding))
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        y = multiply(rows, self._numbers, GROUP, self._scales)[:, : self.outputs].to(x.dtype)
        y = y.reshape(*x.shape[:-1], self.outputs)
        return y if bias is None else y + bias


def rounded_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [O, I] in float32 -> numbers 0..15 [O, G, GROUP], scales and offsets [O, G].

    I is a multiple of GROUP. A weight is about (number - MIDDLE) * scale + offset; both of these
    are in bfloat16.
    """
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.aminmax(dim=2)
    scales = ((high - low) / LARGEST).clamp_(min=TINY).bfloat16()
    offsets = (low + MIDDLE * scales).bfloat16()
    numbers = (groups - offsets.float()[..., None]) / scales.float()[..., None] + MIDDLE
    return numbers.round_().clamp_(0, LARGEST), scales, offsets


def _packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [O, I] in the kernel's layout, and their scales and offsets [G, O padded, 2]."""
    wide = weight.float()
    last = wide[:, -1:].expand(-1, -wide.shape[1] % GROUP)  # keeps the range of the last group
    padded = F.pad(torch.cat([wide, last], 1), (0, 0, 0, -len(wide) % PANEL))
    numbers, scales, offsets = rounded_groups(padded)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.int().flatten(1), 1)
    return packed, torch.stack([scales, offsets], -1).transpose(0, 1).contiguous()


@cache
def multiplies_four_bits() -> bool:
    """Whether this machine has a vectorized kernel for FourBitMatrix."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False  # torch's kernel for other processors multiplies one number at a time
    weight = torch.arange(16.0).repeat(16, 2)
    try:
        return bool((FourBitMatrix(weight)(torch.ones(3, 32)) == 240).all())
    except (RuntimeError, AttributeError):  # not compiled, or removed from torch
        return False
