"""by_lanes: an elementwise function that gives an element the same bits wherever it stands.

torch computes functions such as tanh and exp on whole vectors of the processor, and what is left
over at the end of a thread's share with another implementation, which rounds differently.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LANES = 64  # a multiple of the elements that torch computes together on any processor
SHARE = 32768  # elements up to which torch uses one thread


def by_lanes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of every element of x, of any shape, in whole vectors on a CPU."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(x)
    left = -x.numel() % LANES
    if not left and x.numel() <= SHARE:
        return function(x)
    flat = x.reshape(-1)
    flat = torch.cat([flat, flat.new_zeros(left)]) if left else flat
    found = torch.cat([function(part) for part in torch.split(flat, SHARE)])
    return found[: x.numel()].view(x.shape)
