"""Conversion of a whole tree: device, dtype, training mode, gradients."""

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cupola.nn.members import MODULE
from cupola.nn.traversal import Traversal

Convert = Callable[[Tensor], Tensor]
swap_tensors: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors


class ConvertOnce:
    """A function on tensors that converts a shared tensor once, so that it stays shared."""

    def __init__(self, fn: Convert) -> None:
        self.fn = fn
        self.done: dict[int, tuple[Tensor, Tensor]] = {}  # keeps the old ones alive: ids are reused

    def __call__(self, tensor: Tensor) -> Tensor:
        return self.fn(tensor)

    def member(self, path: str, old: Tensor) -> Tensor:
        """Return the converted parameter or buffer."""
        if id(old) not in self.done:
            if isinstance(old, Parameter):
                new: Tensor = _convert_parameter(path, old, self.fn)
            else:
                new = self.fn(old)
            self.done[id(old)] = old, new
        return self.done[id(old)][1]


class Conversion(Traversal):
    """Changes to all tensors or modules of a tree, in place."""

    training: bool = True

    def train(self, mode: bool = True) -> Self:
        """Set training mode, which changes what dropout and batch norm do, here and below.

        Raises:
            ValueError: the mode is not a bool.
        """
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let autograd record operations on the parameters, or not."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None, or fill them with zeros."""
        for param in self.parameters():
            if param.grad is None:
                continue
            if set_to_none:
                param.grad = None
            else:
                param.grad = param.grad.detach_() if param.grad.grad_fn else param.grad
                param.grad.requires_grad_(False).zero_()

    def _apply(self, fn: Convert, recurse: bool = True) -> Self:
        """Pass every tensor through ``fn``, children first.

        Parameters keep their identity where torch can replace their data, so that optimizers
        remain valid; gradients are converted too; buffers are rebound; shared tensors stay shared.
        """
        conversion = fn if isinstance(fn, ConvertOnce) else ConvertOnce(fn)
        if recurse:
            for child in self.children():
                child._apply(conversion)
        values = self.__dict__
        for name, kind in self._kinds.items():
            if kind != MODULE and values[name] is not None:
                values[name] = conversion.member(f"{self._get_name()}.{name}", values[name])
        return self

    def _get_name(self) -> str:
        return type(self).__name__

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast: ``to(device)``, ``to(dtype)``, ``to(tensor)``, ``memory_format=``.

        Only floating and complex tensors are cast; a memory format applies to tensors of four or
        five dimensions.

        Raises:
            TypeError: the dtype is neither floating nor complex.
            NotImplementedError: the tensors are on the meta device and have no data to move.
        """
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            _check_dtype(dtype)

        def convert(tensor: Tensor) -> Tensor:
            castable = tensor.is_floating_point() or tensor.is_complex()
            target = dtype if castable else None
            try:
                if memory_format is not None and tensor.dim() in (4, 5):
                    return tensor.to(device, target, non_blocking, memory_format=memory_format)
                return tensor.to(device, target, non_blocking)
            except NotImplementedError as error:
                if str(error) != "Cannot copy out of meta tensor; no data!":
                    raise
                raise NotImplementedError(
                    f"{error} Please use torch.nn.Module.to_empty() instead of "
                    "torch.nn.Module.to() when moving module from meta to a different device."
                ) from None

        return self._apply(convert)

    def to_empty(self, *, device: torch.types.Device, recurse: bool = True) -> Self:
        """Replace every tensor by an uninitialized one on a device."""
        return self._apply(lambda t: torch.empty_like(t, device=device), recurse=recurse)

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self._apply(lambda t: t.cpu())

    def cuda(self, device: torch.types.Device = None) -> Self:
        """Move to a CUDA device, the current one by default."""
        return self._apply(lambda t: t.cuda(device))

    def xpu(self, device: torch.types.Device = None) -> Self:
        """Move to an XPU device, the current one by default."""
        return self._apply(lambda t: t.xpu(device))

    def type(self, dst_type: torch.dtype | str) -> Self:
        """Cast every tensor, including integers."""
        return self._apply(lambda t: t.type(dst_type))

    def float(self) -> Self:
        """Cast floating tensors to float32."""
        return self._cast(torch.float32)

    def double(self) -> Self:
        """Cast floating tensors to float64."""
        return self._cast(torch.float64)

    def half(self) -> Self:
        """Cast floating tensors to float16."""
        return self._cast(torch.float16)

    def bfloat16(self) -> Self:
        """Cast floating tensors to bfloat16."""
        return self._cast(torch.bfloat16)

    def _cast(self, dtype: torch.dtype) -> Self:
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def share_memory(self) -> Self:
        """Move every tensor to memory that other processes can map."""
        return self._apply(lambda t: t.share_memory_())  # type: ignore[no-untyped-call]

    def _replicate_for_data_parallel(self) -> Self:
        replica = type(self).__new__(type(self))
        replica.__dict__.update(self.__dict__)
        replica._parameters = {}
        replica.__dict__["_is_replica"] = True
        return replica


def _check_dtype(dtype: torch.dtype) -> None:
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(
            "nn.Module.to only accepts floating point or complex dtypes, "
            f"but got desired dtype={dtype}"
        )
    if dtype.is_complex:
        warnings.warn(
            "Complex modules are a new feature under active development: some modules might not "
            "work as expected when using complex tensors as parameters or buffers.",
            stacklevel=3,
        )


def _convert_parameter(path: str, param: Parameter, fn: Convert) -> Parameter:
    grad = param.grad
    with torch.no_grad():
        converted = fn(param)
        converted_grad = None if grad is None else fn(grad)
    if _must_swap(param, converted):
        return _swap(path, param, converted, converted_grad)
    if _can_set_data(param, converted):
        param.data = converted
        result = param
    else:
        result = Parameter(converted, param.requires_grad)
    if grad is not None and converted_grad is not None:
        if result is param and _can_set_data(grad, converted_grad):
            grad.data = converted_grad
        else:
            result.grad = converted_grad.requires_grad_(grad.requires_grad)
    return result


def _must_swap(param: Parameter, converted: Tensor) -> bool:
    return (
        torch.__future__.get_swap_module_params_on_conversion()
        or isinstance(param, torch._subclasses.FakeTensor)
        or bool(is_traceable_wrapper_subclass(converted))
    )


def _can_set_data(old: Tensor, new: Tensor) -> bool:
    return (
        torch._has_compatible_shallow_copy_type(old, new)
        and not isinstance(new, torch._subclasses.FakeTensor)
        and not torch.__future__.get_overwrite_module_params_on_conversion()
    )


def _swap(path: str, param: Parameter, converted: Tensor, grad: Tensor | None) -> Parameter:
    old_grad, param.grad = param.grad, None  # a gradient is a reference, which prevents the swap
    try:
        swap_tensors(param, Parameter(converted, requires_grad=param.requires_grad))
        if old_grad is not None and grad is not None:
            swap_tensors(old_grad, grad.requires_grad_(old_grad.requires_grad))
    except Exception as error:
        param.grad = old_grad
        raise RuntimeError(f"_apply(): Couldn't swap {path}") from error
    param.grad = old_grad
    return param
