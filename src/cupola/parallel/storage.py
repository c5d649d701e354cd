"""PackedMatrix: a matrix in oneDNN's own layout. Other storages: half_matrix.py, eight_bits.py.

Generating one token reads every weight once, so its time is the weights' bytes over the memory
bandwidth, or the time of the kernel that unpacks them (`python bench/bandwidth.py`). All storages
are called as `linear` is.

Letters: R rows of x, I inputs, O outputs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


class PackedMatrix:
    """W [O, I] laid out for oneDNN's kernels; the product is the same. See `packs`."""

    def __init__(self, weight: Tensor) -> None:
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., I] -> [..., O]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return y


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this machine multiplies a PackedMatrix of this type; bfloat16 needs AVX-512."""
    weight = torch.ones(16, 16, dtype=dtype)
    try:
        return bool((PackedMatrix(weight)(weight) == 16).all())
    except (RuntimeError, AttributeError):  # unsupported here, or torch was built without oneDNN
        return False
