"""How a language model is executed: as it is, packed, or in eight bits.

- none: the weights as they were loaded. Those in sixteen bits stay so and are multiplied in float32
  (parallel/half_matrix.py).
- packed: the same function. Greedy choices read a copy of the head in eight bits and only a few
  rows of the head itself (generation/shortlist.py); bfloat16 matrices are laid out for oneDNN,
  where the processor multiplies bfloat16.
- int8: an approximation. Every matrix in eight bits, activations rounded to eight bits as well.

`deterministic` gives a text the same bits in every batch, chunk and number of ranks up to four
(parallel/independent.py, generation/exact_attention.py), with any of the three.

Copies are kept beside the weights, which are in a mapped file. A part that this machine has no
fast kernel for is left as it is. A model that is not on the CPU computes in the type of its
weights, by torch's own products, whatever is chosen.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError, did_you_mean
from cupola.generation.shortlist import ArgmaxShortlist
from cupola.parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from cupola.parallel.half_matrix import HalfMatrix, multiplies_half
from cupola.parallel.independent import InputParts, independent
from cupola.parallel.layers import Stored
from cupola.parallel.storage import EightBitMatrix, PackedMatrix, has_exact_int8_product, packs

OPTIMIZATIONS = ("none", "packed", "int8")
HALVES = (torch.float16, torch.bfloat16)


def optimize(model: Any, optimization: str, deterministic: bool = False) -> None:
    """Applies one of OPTIMIZATIONS to a loaded language model, in place.

    Apply "none" before training the model or loading other weights into it. Raises InputError for
    an unknown name, and for a deterministic model that is not on the CPU.
    """
    if optimization not in OPTIMIZATIONS:
        hint = did_you_mean(optimization, OPTIMIZATIONS)
        raise InputError(f"optimization must be one of {OPTIMIZATIONS}, not {optimization!r}{hint}")
    on_cpu = model.device.type == "cpu"
    if deterministic and not on_cpu:
        raise InputError(f"deterministic: only on the CPU, and the model is on {model.device}")
    if not on_cpu:  # the kernels below are the CPU's
        optimization = "none"
        compute_as_stored(model)
    bfloat16 = optimization == "packed" and model.dtype == torch.bfloat16 and packs(model.dtype)
    if on_cpu and model.head.weight.dtype in HALVES and (deterministic or not bfloat16):
        compute_in_float32(model)
    if deterministic and model.dtype != torch.float32:
        raise InputError(f"deterministic: not in {model.dtype}; load the model in float32")
    model.deterministic = deterministic
    _optimize_head(model, optimization)
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            int8 = optimization == "int8"
            by_parts = deterministic and isinstance(module, RowParallelLinear)
            module.stored = None if by_parts else _stored(module.weight, model, optimization)
            if isinstance(module, RowParallelLinear):
                module.parts = InputParts(module.weight, module.group, int8) if by_parts else None


def compute_in_float32(model: Any) -> None:
    """Leaves matrices and word tables in sixteen bits, converts the rest, and computes in float32.

    Every result is that of the same weights in float32.
    """
    kept = set()
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear | VocabParallelEmbedding):
            kept.add(id(module.weight))
        if isinstance(module, VocabParallelEmbedding):
            module.compute_dtype = torch.float32
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.float()


def compute_as_stored(model: Any) -> None:
    """Computes in the type of the matrices: the opposite of `compute_in_float32`."""
    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            module.compute_dtype = None
    model.to(model.head.weight.dtype)


def _optimize_head(model: Any, optimization: str) -> None:
    table, exact = model.head.weight, has_exact_int8_product()
    shortlists = optimization != "none" and model.group.size == 1 and exact
    model.shortlist = model.stored_head = None
    if model.deterministic:
        model.stored_head = head = independent(table, optimization == "int8")
        if shortlists and optimization == "packed":  # in eight bits p = 1 would choose otherwise
            model.shortlist = ArgmaxShortlist(table, partial(_some_logits, table, head))
        return
    if _is_widened(table, model):
        model.stored_head = _stored(table, model, optimization)
    model.shortlist = ArgmaxShortlist(table) if shortlists else None
    if optimization == "int8" and exact:
        model.stored_head = model.shortlist.small if shortlists else EightBitMatrix(table)


def _some_logits(table: Tensor, head: Any, hidden: Tensor, ids: Tensor | None) -> Tensor:
    """Logits of some ids with the bits that the whole product gives them."""
    logits: Tensor = (head if ids is None else type(head)(table[ids]))(hidden, None)
    return logits


def _stored(weight: Tensor, model: Any, optimization: str) -> Stored | None:
    if model.deterministic:
        return independent(weight, optimization == "int8")
    if optimization == "int8" and has_exact_int8_product():
        return EightBitMatrix(weight)
    if _is_widened(weight, model) and multiplies_half():
        return HalfMatrix(weight)
    if optimization == "packed" and weight.dtype == torch.bfloat16 == model.dtype:
        return PackedMatrix(weight) if packs(weight.dtype) else None
    return None


def _is_widened(weight: Tensor, model: Any) -> bool:
    return weight.dtype in HALVES and model.dtype == torch.float32
