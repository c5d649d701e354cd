"""Attention whose numbers depend on nothing but a query and the keys before it, to the last bit.

A sum of floating-point numbers depends on the order of its additions, and with it on how a prompt
was cut into chunks, on the number of keys in a kernel's tile and on the processor. A sum of whole
numbers below 2^53 is exact in float64, in any order. So queries, keys, values and weights are
rounded to whole multiples of a power of two: to 23 bits of the largest element of their vector
(float32 has 24), and weights to two times 18 bits. Every product and sum of the two matrix products
is then exact; softmax works on single elements, on a maximum, and on sums that are exact as well.

Letters: N query heads, G key-value heads, Q queries, K keys, D head size.
"""

import math

import torch
from torch import Tensor

from cupola.parallel.elementwise import by_lanes

KEYS = 4096  # keys whose sums are exact; longer texts are summed in parts of so many
EXPONENT = 0x7FF0000000000000  # the exponent bits of a float64
WEIGHT_BITS = 18  # 53 less 23 of a value and 12 of KEYS
TILE = 2**17  # scores that are computed together, so that they stay in the cache


def vector_bits(size: int) -> int:
    """How many bits the elements of vectors [D] may have, so that their dot product is exact."""
    return min(23, (53 - math.ceil(math.log2(size))) // 2)


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two in each element, which is float64 and not negative."""
    return (x.view(torch.int64) & EXPONENT).view(torch.float64)


def rounded(x: Tensor, top: Tensor, bits: int) -> Tensor:
    """x as whole multiples of 2^(1 - bits) times `top`, where |x| < 2 top."""
    large = top * (1.5 * 2.0 ** (53 - bits))
    return (x + large) - large


def as_whole(x: Tensor) -> Tensor:
    """[..., D] of any type -> float64, each vector rounded to whole multiples of its own unit."""
    x = x.double()
    return rounded(x, power_of_two(x.abs().amax(-1, keepdim=True)), vector_bits(x.shape[-1]))


def as_whole_below_one(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., D] -> multiples of 2^-bits in -1..1, and the power of two [...] to multiply them by."""
    whole = as_whole(x)
    factor = 2 * power_of_two(whole.abs().amax(-1))
    return whole / factor.clamp(min=torch.finfo(torch.float64).tiny)[..., None], factor


def exact_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    factors: Tensor,
    past: int,
    slopes: Tensor | None = None,
) -> Tensor:
    """Queries [Q, N, D] at the positions from `past` on -> mixtures [Q, N, D] in their type.

    `keys` [G, K, D] are from `as_whole`, `values` [G, K, D] and `factors` [G, K] from
    `as_whole_below_one`, or the same in float32, which holds them exactly. `slopes` are the ALiBi
    slopes [N].
    """
    (Q, N, _), (G, K, _) = query.shape, keys.shape
    shared = N // G  # query heads of one key-value head
    rows = max(1, min(Q, TILE // (shared * K)))
    heads = max(1, TILE // (shared * K * rows))
    whole = as_whole(query)
    out = torch.empty(query.shape, dtype=query.dtype)
    for start in range(0, Q, rows):
        stop = min(start + rows, Q)
        seen = slice(0, past + stop)
        for first in range(0, G, heads):
            own = slice(first, first + heads)
            its = slice(first * shared, (first + heads) * shared)  # query heads
            bias = None if slopes is None else slopes[its]
            found = _tile(
                whole[start:stop, its], keys[own, seen].double(), values[own, seen].double(),
                factors[own, seen].double(), past + start, bias,
            )  # fmt: skip
            out[start:stop, its] = found.transpose(0, 1)
    return out


def _tile(
    query: Tensor, keys: Tensor, values: Tensor, factors: Tensor, first: int, slopes: Tensor | None
) -> Tensor:
    """[N, Q, D] mixtures for [Q, N, D] queries, of which the first sees `first` + 1 keys."""
    (Q, N, D), (G, K, _) = query.shape, keys.shape
    shared = N // G  # query heads of one key-value head
    rows = query.transpose(0, 1).reshape(G, shared * Q, D)
    scores = torch.bmm(rows, keys.transpose(1, 2)).mul_(1 / math.sqrt(D)).view(N, Q, K)
    places = torch.arange(K)
    if slopes is not None:
        scores += slopes.double()[:, None, None] * places.double()
    if Q > 1:
        scores.masked_fill_(places > torch.arange(first, first + Q)[:, None], -torch.inf)
    scores -= scores.amax(-1, keepdim=True)
    weights = by_lanes(torch.exp, scores.float()).double().view(G, shared * Q, K)
    scaled = weights * factors[:, None]
    top = power_of_two(scaled.amax(-1, keepdim=True))  # [G, shared Q, 1]
    high = rounded(scaled, top, WEIGHT_BITS)
    low = rounded(scaled - high, top, 2 * WEIGHT_BITS)
    weights = rounded(weights, torch.ones(()), 40)
    total, mixed = weights.new_zeros(()), weights.new_zeros(())
    for start in range(0, K, KEYS):
        part = slice(start, start + KEYS)
        total = total + weights[:, :, part].sum(-1, keepdim=True)
        pair = torch.bmm(torch.cat([high[:, :, part], low[:, :, part]], 1), values[:, part])
        mixed = mixed + (pair[:, : shared * Q] + pair[:, shared * Q :])
    return (mixed / total).view(N, Q, D)
