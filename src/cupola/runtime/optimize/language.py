"""How a language model is executed on the CPU: as it is, packed, or in eight bits.

- none: the weights as they were loaded.
- packed: the same function. Greedy choices read a copy of the head in eight bits and only a few
  rows of the head itself (generation/shortlist.py); bfloat16 matrices are laid out for oneDNN.
- int8: an approximation. Every matrix in eight bits, activations rounded to eight bits as well.

Both keep copies beside the weights, which are in a mapped file. A part that this machine has no
fast kernel for is left as it is.
"""

from typing import Any

import torch

from cupola.errors import InputError, did_you_mean
from cupola.generation.shortlist import ArgmaxShortlist
from cupola.parallel import ColumnParallelLinear, RowParallelLinear
from cupola.parallel.layers import Stored
from cupola.parallel.storage import EightBitMatrix, PackedMatrix, has_exact_int8_product, packs

OPTIMIZATIONS = ("none", "packed", "int8")


def optimize(model: Any, optimization: str) -> None:
    """Applies one of OPTIMIZATIONS to a loaded language model, in place.

    Apply "none" before training the model or loading other weights into it. Raises InputError for
    an unknown name.
    """
    if optimization not in OPTIMIZATIONS:
        hint = did_you_mean(optimization, OPTIMIZATIONS)
        raise InputError(f"optimization must be one of {OPTIMIZATIONS}, not {optimization!r}{hint}")
    table, exact = model.head.weight, has_exact_int8_product()
    shortlists = optimization != "none" and model.group.size == 1 and exact
    model.shortlist = ArgmaxShortlist(table) if shortlists else None
    model.stored_head = None
    if optimization == "int8" and exact:
        model.stored_head = model.shortlist.small if shortlists else EightBitMatrix(table)
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            module.stored = _stored(module.weight, optimization)


def _stored(weight: torch.Tensor, optimization: str) -> Stored | None:
    if optimization == "int8" and has_exact_int8_product():
        return EightBitMatrix(weight)
    if optimization == "packed" and weight.dtype == torch.bfloat16 and packs(weight.dtype):
        return PackedMatrix(weight)
    return None
