"""How a matrix of a language model can be stored on this machine, by name.

plain is the weight as it was loaded; packed and half compute the same function; the kernels of
parallel/eight_bits.py approximate it, and int4 (parallel/four_bits.py) does so more coarsely.
"""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.parallel import ColumnParallelLinear, RowParallelLinear
from cupola.parallel.eight_bits import KERNELS, EightBitMatrix, exact_kernels
from cupola.parallel.four_bits import FourBitMatrix, multiplies_four_bits
from cupola.parallel.half_matrix import HalfMatrix, is_half, multiplies_half
from cupola.parallel.layers import Stored
from cupola.parallel.storage import PackedMatrix, packs

HALVES = (torch.float16, torch.bfloat16)
PLAIN, PACKED, HALF, FOUR = "plain", "packed", "half", "int4"
HEAD, SHORTLIST = "head", "shortlist"  # names beside those of the matrices of a layer


def matrices(model: Any) -> Iterator[tuple[str, Any]]:
    """Each parallel linear layer of a model, by its name in its layer: "mlp.dense_h_to_4h"."""
    for layer in model.layers:
        for name, module in layer.named_modules():
            if isinstance(module, ColumnParallelLinear | RowParallelLinear):
                yield name, module


def exact_storages(weight: Tensor, model: Any) -> list[str]:
    """Storages of a matrix that compute the same function here, the likely fastest first."""
    widened = weight.dtype in HALVES and model.dtype == torch.float32
    found = []
    if multiplies_half() and (widened or (weight.dtype == torch.float32 and is_half(weight))):
        found.append(HALF)
    if weight.dtype == model.dtype and weight.dtype != torch.float16 and packs(weight.dtype):
        found.append(PACKED)
    return [*found, PLAIN]


def default_storage(weight: Tensor, model: Any, optimization: str) -> str:
    """The storage for one of LANGUAGE where nothing was measured."""
    if optimization == "int8" and exact_kernels():
        return exact_kernels()[0]
    if optimization == FOUR and multiplies_four_bits():
        return FOUR
    if optimization == PACKED:
        return exact_storages(weight, model)[0]
    # as loaded: no copy of what is multiplied as it is
    return HALF if weight.dtype != model.dtype and multiplies_half() else PLAIN


class Packing:
    """Builds the storages of many matrices; they can be used after the `with` block.

    torch packs float16 with one thread, so several matrices are packed at a time.
    """

    def __enter__(self) -> "Packing":
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        self._begun: list[HalfMatrix] = []
        return self

    def build(self, storage: str, weight: Tensor) -> Stored | None:
        """As the function `build`."""
        found = build(storage, weight, self._pool)
        if isinstance(found, HalfMatrix):
            self._begun.append(found)
        return found

    def __exit__(self, kind: object, *error: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for matrix in self._begun:
                matrix.finish()


def build(storage: str, weight: Tensor, pool: Executor | None = None) -> Stored | None:
    """A weight in a storage of this name; None for plain. With a pool, see HalfMatrix."""
    if storage == PLAIN:
        return None
    if storage in (PACKED, HALF):
        return PackedMatrix(weight) if storage == PACKED else HalfMatrix(weight, pool)
    if storage == FOUR and multiplies_four_bits():
        return FourBitMatrix(weight)
    if storage in exact_kernels():
        return EightBitMatrix(weight, kernel=storage)
    known = ", ".join((PLAIN, PACKED, HALF, FOUR, *KERNELS))
    raise InputError(f"storage {storage!r} does not run on this machine (known: {known})")
