"""Conversion of a whole tree: device, dtype, training mode, gradients."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from cupola.nn.class_checks import TorchModule
from cupola.nn.members import BUFFERS, PARAMETERS, table_of
from cupola.nn.store import keep
from cupola.nn.traversal import Traversal

Function = Callable[[Tensor], Tensor]


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
            is_parameter = isinstance(old, Parameter)
            new = _convert(module, name, old, self.fn) if is_parameter else self.fn(old)
            self.done[id(old)] = old, new
        return self.done[id(old)][1]


class Conversion(Traversal):
    """Changes to all tensors or modules of a tree, in place. Most methods are torch's: they only
    call ``_apply``, ``parameters`` or ``train``."""

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
    eval: Callable[..., Self] = TorchModule.eval
    _get_name: Callable[..., str] = TorchModule._get_name
    _replicate_for_data_parallel: Callable[..., Any] = TorchModule._replicate_for_data_parallel

    def train(self, mode: bool = True) -> Self:
        """Set training mode, which changes what dropout and batch norm do, here and below.
        ValueError if the mode is not a bool."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

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


def _convert(module: Any, name: str, param: Tensor, fn: Function) -> Tensor:
    with torch.no_grad():
        converted = fn(param)
    if (
        param.grad is None
        and type(param) is Parameter
        and type(converted) in (Tensor, Parameter)
        and torch._has_compatible_shallow_copy_type(param, converted)
        and not torch.__future__.get_overwrite_module_params_on_conversion()
        and not torch.__future__.get_swap_module_params_on_conversion()
    ):
        param.data = converted
        return param
    # All other cases are left to torch's code, which takes what has these attributes for a module.
    lent: Any = SimpleNamespace(_parameters={name: param}, _buffers={}, _get_name=module._get_name)
    apply_own: Callable[..., Any] = TorchModule._apply
    apply_own(lent, lambda tensor: converted if tensor is param else fn(tensor), False)
    found: Tensor = lent._parameters[name]
    return found
