"""Tensors as PyTorch's pickles describe them, and the unpickler that rebuilds nothing else.

What a pickle may call is sealed, and tensors stay wrapped while it can still alter things.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.files.pickles import PLAIN, Placeholder, RestrictedUnpickler, Sealed, show_methods

EXPANDED = 1 << 20  # elements that a tensor may have beyond those of its storage (stride 0)
DTYPES = {
    f"torch.{name}": found
    for name in dir(torch)
    if isinstance(found := getattr(torch, name), torch.dtype)
}
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip


class UnsupportedTensor(Placeholder):
    """A tensor that is not strided: sparse, quantized, or of a subclass."""


class _Held:
    """Something that a pickle may pass on and may not alter."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it alters a tensor")


@dataclass(frozen=True)
class _Storage(_Held):
    values: Tensor  # [numel], elements of one type


@dataclass(frozen=True)
class Built(_Held):
    tensor: Tensor


def _integers(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(type(value) is int for value in values)


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    if not (isinstance(storage, _Storage) and _integers(size) and _integers(stride)):
        raise pickle.UnpicklingError("a tensor's description is damaged")
    if len(size) != len(stride) or min([0, offset, *size, *stride]) < 0:
        raise pickle.UnpicklingError("a tensor's sizes or strides are damaged")
    count, available = math.prod(size), storage.values.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= available or count > max(available, EXPANDED)):
        raise pickle.UnpicklingError(f"a tensor {list(size)[:8]} lies outside its storage")
    return storage.values.as_strided(size, stride, offset if count else 0)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Built:
    return Built(_view(storage, offset, size, stride))


def _rebuild_typed(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Built:
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("a tensor's description is damaged")
    usable = storage.values.numel() // dtype.itemsize * dtype.itemsize
    return Built(_view(_Storage(typed(storage.values[:usable], dtype)), offset, size, stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_type(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A Tensor or Parameter with attributes; of other subclasses nothing is read."""
    plain = getattr(kind, "name", "") in ("torch.Tensor", "torch.nn.parameter.Parameter")
    if not (plain and isinstance(function, Sealed) and isinstance(arguments, tuple)):
        return UnsupportedTensor()
    return function(*arguments)


def _unsupported(*_: Any) -> UnsupportedTensor:
    return UnsupportedTensor()


def _size(values: Any = ()) -> tuple[int, ...]:
    if not _integers(values):
        raise pickle.UnpicklingError("a torch.Size is damaged")
    return tuple(values)


REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _size,
    "torch.Tensor": _unsupported,
    "torch.nn.parameter.Parameter": _unsupported,
    "torch._utils._rebuild_sparse_tensor": _unsupported,
    "torch._utils._rebuild_nested_tensor": _unsupported,
    "torch._utils._rebuild_qtensor": _unsupported,
    "torch._utils._rebuild_wrapper_subclass": _unsupported,
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported,
    "torch._utils._rebuild_device_tensor_from_numpy": _unsupported,
}
TENSORS: Mapping[str, Any] = {
    "collections.OrderedDict": PLAIN["collections.OrderedDict"],
    "builtins.set": PLAIN["builtins.set"],
    "__builtin__.set": PLAIN["__builtin__.set"],
    **DTYPES,
    **{f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.storage.TypedStorage": torch.uint8,
    **{name: Sealed(function, name) for name, function in REBUILD.items()},
}


class TensorUnpickler(RestrictedUnpickler):
    """Storages are found by `storage(dtype, key, count)`."""

    def __init__(
        self,
        file: Any,
        storage: Callable[[torch.dtype, str, int], Tensor],
        known: Mapping[str, Any] = TENSORS,
    ) -> None:
        super().__init__(file, known, strict=False, encoding="latin1")
        self._storage = storage
        self._found: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("it refers to objects outside the file")
        dtype, key, count = pid[1], str(pid[2]), pid[4]
        if not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"storage {key[:40]} is of an unknown type")
        if key not in self._found:
            self._found[key] = _Storage(self._storage(dtype, key, count))
        if len(pid) > 5 and pid[5] is not None:  # a view of a storage, before PyTorch 0.4
            _, start, length = pid[5]
            return _Storage(_view(self._found[key], start, (length,), (1,)))
        return self._found[key]


def typed(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes [n] as elements; a copy where they are not aligned."""
    if raw.data_ptr() % dtype.itemsize:
        raw = torch.from_numpy(raw.numpy().copy())
    return raw.view(dtype)


def unwrap(value: Any, done: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The content with tensors in place of what held them while the pickle could alter things.

    `done` holds each container with its result, by its id: values that refer to each other have
    few objects and may be endless as a tree.
    """
    done = {} if done is None else done
    if isinstance(value, Built):
        return value.tensor
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, dict):
        done[id(value)] = value, value
        if isinstance(value, OrderedDict):
            show_methods(value)
        for key, item in value.items():
            value[key] = unwrap(item, done)
    elif isinstance(value, list):
        done[id(value)] = value, value
        value[:] = [unwrap(item, done) for item in value]
    elif type(value) is tuple:
        found = tuple([unwrap(item, done) for item in value])
        done[id(value)] = value, found
        return found
    return value
