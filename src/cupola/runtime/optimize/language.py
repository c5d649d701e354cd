"""How a language model is executed: as it stands, prepared, or in eight bits.

- eager: the weights as they were loaded.
- prepared: the same function. Greedy choices read a copy of the word table in eight bits and only
  a few rows of the table itself (screen.py); bfloat16 matrices are laid out for oneDNN.
- int8: an approximation. Every matrix in eight bits, activations rounded to eight bits, too.

Both add memory for what they keep beside the weights, which lie in a mapped file.
"""

from typing import Any

import torch

from cupola.errors import InputError, did_you_mean
from cupola.generation.shortlist import Screen
from cupola.parallel import ColumnParallelLinear, RowParallelLinear
from cupola.parallel.storage import EightBitMatrix, PackedMatrix, eight_bit_products_are_exact

ENGINES = ("eager", "prepared", "int8")


def prepare(model: Any, engine: str) -> None:
    """Puts a loaded BLOOM on the CPU under one of ENGINES, in place; InputError for another name.

    Training it or loading other weights into it needs "eager" first.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is none of {ENGINES}{did_you_mean(engine, ENGINES)}")
    table = model.transformer.embedding.word.weight
    screens = engine != "eager" and model.group.size == 1 and eight_bit_products_are_exact()
    model.screen = Screen(table) if screens else None
    model.stored_head = None
    if engine == "int8":
        model.stored_head = model.screen.small if screens else EightBitMatrix(table)
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            module.stored = _stored(module.weight, engine)


def _stored(weight: torch.Tensor, engine: str) -> Any:
    if engine == "int8":
        return EightBitMatrix(weight)
    packs = engine == "prepared" and weight.dtype == torch.bfloat16
    return PackedMatrix(weight) if packs and torch._C._has_mkldnn else None
