"""Tensors that depend on shapes and settings only, such as position encodings and anchors.

They are computed once and shared by all models and threads of the process, so nothing may change
them in place. Those of the CPU and of CUDA are kept, but none while a program is traced, counted,
simulated or recorded as a CUDA graph.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from cupola.parallel import is_recorded

Constant = TypeVar("Constant", Tensor, tuple[Tensor, ...])


class ConstantCache:
    """The constants used last, of at most `limit` bytes together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._found: OrderedDict[Hashable, Tensor | tuple[Tensor, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Hashable, like: Tensor, make: Callable[[], Constant]) -> Constant:
        """What `make` returns; `key` holds all that it depends on but the device of `like`.

        The result needs no gradient. It must be large enough to be worth a look-up.
        """
        if not cacheable(like):
            return make()
        key = (like.device, key)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return cast(Constant, self._found[key])
        if is_recorded(like):  # its memory would belong to the graph
            return make()
        # A tensor made in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            made = make()
        with self._lock:
            self._keep(key, made)
        return made

    def _keep(self, key: Hashable, made: Tensor | tuple[Tensor, ...]) -> None:
        if key in self._found or _bytes(made) > self.limit:
            return
        self._found[key] = made
        self.size += _bytes(made)
        while self.size > self.limit:
            _, oldest = self._found.popitem(last=False)
            self.size -= _bytes(oldest)


CONSTANTS = ConstantCache(limit=64 * 1024**2)


def constant(values: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`torch.tensor(values)` on the device of `like`, where copying it each time would wait.

    values: numbers, in tuples of any depth.
    """

    def make() -> Tensor:
        return torch.tensor(values, dtype=dtype, device=like.device)

    return CONSTANTS.get((repr(values), dtype), like, make)


def _bytes(made: Tensor | tuple[Tensor, ...]) -> int:
    tensors = (made,) if isinstance(made, Tensor) else made
    return sum(each.untyped_storage().nbytes() for each in tensors)


def cacheable(like: Tensor) -> bool:
    """Whether constants for tensors like this one are kept.

    On the CPU and on CUDA, unless the operators of this thread are traced or counted, or tensors
    simulated.
    """
    return like.device.type in ("cpu", "cuda") and not (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
    )
