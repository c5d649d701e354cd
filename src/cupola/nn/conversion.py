"""Conversion of a whole tree: device, dtype, training mode, gradients."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cupola.nn.members import BUFFERS, PARAMETERS, table_of
from cupola.nn.store import keep
from cupola.nn.traversal import Traversal

Function = Callable[[Tensor], Tensor]
TorchModule = torch.nn.Module
swap_tensors: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors


class ConvertOnce:
    """A function on tensors that converts a shared tensor once, so that it stays shared."""

    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.done: dict[int, tuple[Tensor, Tensor]] = {}  # keeps the old ones alive: ids are reused

    def __call__(self, tensor: Tensor) -> Tensor:
        return self.fn(tensor)

    def member(self, module: Any, name: str, old: Tensor) -> Tensor:
        """Return the converted parameter or buffer."""
        if id(old) not in self.done:
            if isinstance(old, Parameter):
                new: Tensor = _convert_parameter(module, name, old, self.fn)
            else:
                new = self.fn(old)
            self.done[id(old)] = old, new
        return self.done[id(old)][1]


class Conversion(Traversal):
    """Changes to all tensors or modules of a tree, in place.

    Most methods are torch's: they only call ``_apply``, ``parameters`` or ``train``.
    """

    training: bool = True

    to: Callable[..., Self] = TorchModule.to
    to_empty: Callable[..., Self] = TorchModule.to_empty
    cpu: Callable[..., Self] = TorchModule.cpu
    cuda: Callable[..., Self] = TorchModule.cuda
    xpu: Callable[..., Self] = TorchModule.xpu
    type: Callable[..., Self] = TorchModule.type
    float: Callable[..., Self] = TorchModule.float
    double: Callable[..., Self] = TorchModule.double
    half: Callable[..., Self] = TorchModule.half
    bfloat16: Callable[..., Self] = TorchModule.bfloat16
    share_memory: Callable[..., Self] = TorchModule.share_memory
    requires_grad_: Callable[..., Self] = TorchModule.requires_grad_
    zero_grad: Callable[..., None] = TorchModule.zero_grad

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

    def _apply(self, fn: Function, recurse: bool = True) -> Self:
        """Pass every tensor through ``fn``, children first.

        Parameters keep their identity where torch can replace their data, so that optimizers
        remain valid; gradients are converted too; buffers are rebound; shared tensors stay shared.
        """
        convert = fn if isinstance(fn, ConvertOnce) else ConvertOnce(fn)
        if recurse:
            for child in self.children():
                child._apply(convert)
        for kind in (PARAMETERS, BUFFERS):
            for name, old in table_of(self, kind).items():
                if old is not None and (new := convert.member(self, name, old)) is not old:
                    keep(self, name, new, kind)
        return self

    def _get_name(self) -> str:
        return type(self).__name__

    def _replicate_for_data_parallel(self) -> Self:
        replica = copy.copy(self)
        replica._parameters = {}
        replica.__dict__["_is_replica"] = True
        return replica


def _convert_parameter(module: Any, name: str, param: Parameter, fn: Function) -> Parameter:
    grad = param.grad
    with torch.no_grad():
        converted = fn(param)
        converted_grad = None if grad is None else fn(grad)
    if _must_swap(param, converted):
        return _swap(f"{module._get_name()}.{name}", param, converted, converted_grad)
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
