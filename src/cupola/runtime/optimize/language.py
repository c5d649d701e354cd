"""How a language model is executed: as it is, packed, in eight bits, or in four.

- none: the weights as they were loaded. Those in sixteen bits stay so and are multiplied in float32
  (parallel/half_matrix.py).
- packed: the same function. Greedy choices read a copy of the head in eight bits and only a few
  rows of the head itself (generation/shortlist.py). Matrices in float32 that float16 holds exactly
  are kept in sixteen bits, others are laid out for oneDNN. Weights in bfloat16 are multiplied in
  bfloat16 only where there is no kernel that multiplies them in float32.
- int8: an approximation. Every matrix in eight bits, activations rounded to eight bits as well, or
  to seven where the processor has no exact product of eight (parallel/eight_bits.py).
- int4: a coarser approximation, in half the memory of int8. The matrices of the layers in four bits
  by groups of inputs, activations in bfloat16 (parallel/four_bits.py), and the head in eight bits.

`deterministic` gives a text the same bits in every batch, chunk and number of ranks up to four
(parallel/independent.py, generation/exact_attention.py), with any of the first three.

Copies are kept beside the weights, which are in a mapped file. A part that this machine has no
fast kernel for is left as it is. Which storage is the fastest can be measured
(language_choice.py). A model that is not on the CPU computes in the type of its
weights, by torch's own products, whatever is chosen; on CUDA its steps are recorded
(generation/decode_graphs.py).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cupola.bundles.optimizations import LANGUAGE
from cupola.errors import InputError, did_you_mean
from cupola.generation.shortlist import ArgmaxShortlist
from cupola.parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from cupola.parallel.eight_bits import exact_kernels
from cupola.parallel.half_matrix import multiplies_half
from cupola.parallel.independent import InputParts, independent
from cupola.parallel.storage import packs
from cupola.runtime.optimize.storages import (
    FOUR,
    HALVES,
    HEAD,
    PACKED,
    PLAIN,
    SHORTLIST,
    Packing,
    default_storage,
    matrices,
)


def optimize(
    model: Any,
    optimization: str,
    deterministic: bool = False,
    storages: Mapping[str, str] | None = None,
) -> None:
    """Applies one of the optimizations LANGUAGE to a loaded language model, in place.

    `storages` are those of a measured choice (language_choice.py), by default those that are
    likely to be the fastest. Apply "none" before training the model or loading other weights into
    it. Raises InputError for an unknown name, for a deterministic model that is not on the CPU, and
    for one in four bits.
    """
    chosen = dict(storages or {})
    if optimization not in LANGUAGE:
        hint = did_you_mean(optimization, LANGUAGE)
        raise InputError(f"optimization must be one of {LANGUAGE}, not {optimization!r}{hint}")
    on_cpu = model.device.type == "cpu"
    if deterministic and optimization == FOUR:
        raise InputError(f"deterministic: not with {FOUR}; choose none, packed or int8")
    if deterministic and not on_cpu:
        raise InputError(f"deterministic: only on the CPU, and the model is on {model.device}")
    if not on_cpu:  # the kernels below are the CPU's
        optimization = "none"
        compute_as_stored(model)
    # Storages are measured in float32 arithmetic.
    narrow = optimization == "packed" and not storages and not deterministic
    if on_cpu and model.head.weight.dtype in HALVES and not (narrow and _in_bfloat16(model)):
        compute_in_float32(model)
    if deterministic and model.dtype != torch.float32:
        raise InputError(f"deterministic: not in {model.dtype}; load the model in float32")
    model.deterministic = deterministic
    with Packing() as packing:
        _optimize_head(model, optimization, chosen, packing)
        _optimize_layers(model, optimization, chosen, packing)
    if not on_cpu and model.group.size == 1:
        model.shortlist = partial(_largest, model)


def _optimize_layers(
    model: Any, optimization: str, chosen: Mapping[str, str], packing: Packing
) -> None:
    for name, module in matrices(model):
        int8 = optimization == "int8"
        by_parts = model.deterministic and isinstance(module, RowParallelLinear)
        if by_parts:
            module.stored = None
        elif model.deterministic:
            module.stored = independent(module.weight, int8)
        else:
            storage = chosen.get(name) or default_storage(module.weight, model, optimization)
            module.stored = packing.build(storage, module.weight)
        if isinstance(module, RowParallelLinear):
            module.parts = InputParts(module.weight, module.group, int8) if by_parts else None


def _in_bfloat16(model: Any) -> bool:
    """Whether bfloat16 is multiplied here, but not as float16 with sums in float32."""
    return model.dtype == torch.bfloat16 and packs(model.dtype) and not multiplies_half()


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


def _optimize_head(
    model: Any, optimization: str, chosen: Mapping[str, str], packing: Packing
) -> None:
    table = model.head.weight
    shortlist = chosen.get(SHORTLIST, next(iter(exact_kernels()), PLAIN))
    shortlists = optimization != "none" and model.group.size == 1 and shortlist != PLAIN
    model.shortlist = model.stored_head = None
    if model.deterministic:
        model.stored_head = head = independent(table, optimization == "int8")
        if shortlists and optimization == "packed":  # in eight bits p = 1 would choose otherwise
            model.shortlist = ArgmaxShortlist(table, partial(_some_logits, table, head))
        return
    kept = "int8" if optimization == FOUR else optimization  # four bits are too few for a head
    name = chosen.get(HEAD) or default_storage(table, model, kept)
    if name == PACKED and HEAD not in chosen:
        name = PLAIN  # large, and what is greedy reads the shortlist
    model.shortlist = ArgmaxShortlist(table, kernel=shortlist) if shortlists else None
    if shortlists and name == shortlist:
        model.stored_head = model.shortlist.small
    else:
        model.stored_head = packing.build(name, table)


def _largest(model: Any, hidden: Tensor) -> list[int]:
    """The ids with the largest logits of hidden states [R, H], in one copy from the device."""
    found: list[int] = model.logits(hidden).argmax(-1).tolist()
    return found


def _some_logits(table: Tensor, head: Any, hidden: Tensor, ids: Tensor | None) -> Tensor:
    """Logits of some ids with the bits that the whole product gives them."""
    logits: Tensor = (head if ids is None else type(head)(table[ids]))(hidden, None)
    return logits
