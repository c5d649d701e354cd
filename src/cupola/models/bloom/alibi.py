"""ALiBi: a bias on the scores that grows with the key's position, steeper for some heads.

Letters: B batch, S sequence, N heads. The paper (arXiv 2108.12409) subtracts the distance between
query and key; BLOOM adds slope * position of the key, which softmax cannot tell apart.
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


def positions(attention_mask: Tensor) -> Tensor:
    """[B, S] mask (1 = token, 0 = padding) -> positions that start at 0 with the first token.

    Left padding therefore changes nothing for the tokens after it.
    """
    mask = attention_mask.long()
    return (mask.cumsum(-1) - 1) * mask


def alibi_bias(slopes: Tensor, key_positions: Tensor) -> Tensor:
    """[N] slopes and [B, S] positions -> [B, N, 1, S] bias, float32."""
    return slopes[None, :, None, None] * key_positions[:, None, None, :].float()
