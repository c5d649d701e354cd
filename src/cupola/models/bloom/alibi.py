"""ALiBi: a bias on the scores that grows with the key's position, steeper for some heads.

Paper: arXiv 2108.12409. generation/dense_attention.py and paged_attention.py add the bias.
"""

import math

import torch
from torch import Tensor


def _powers(heads: int) -> list[float]:
    start = 2.0 ** (-(2.0 ** -(math.log2(heads) - 3)))
    return [start ** (i + 1) for i in range(heads)]


def alibi_slopes(heads: int) -> Tensor:
    """[N] float32. Where N is no power of two, the heads past the last power of two take every
    other slope of twice as many (Megatron-DeepSpeed, `_build_alibi_tensor`)."""
    lower = 2 ** math.floor(math.log2(heads))
    slopes = _powers(lower)
    if lower < heads:
        slopes += _powers(2 * lower)[0::2][: heads - lower]
    return torch.tensor(slopes, dtype=torch.float32)
