"""What a module that is not bridged does where code for torch.nn.Module asks for its class.

``torch.nn.Module.__setattr__`` registers what ``isinstance(value, torch.nn.Module)`` accepts, and
stores anything else as an attribute whose parameters are neither listed, moved nor saved. Tools
that select layers by ``isinstance`` skip the others. Neither says so. But ``isinstance`` reads
``value.__class__`` before its answer is no, so a property of that name can act in time: an
assignment to a torch module or container bridges the value, and such a tool gets an error.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Final

import torch
from torch.nn.utils import _named_member_accessor as accessor

from cupola.errors import NotBridgedError


def _codes(*functions: Any) -> frozenset[int]:
    return frozenset(id(function.__code__) for function in functions)


# The methods of torch that register a child. All others call one of them.
TorchModule: Final = torch.nn.Module
ASSIGNING: Final = _codes(
    TorchModule.__setattr__, TorchModule.add_module, torch.nn.Sequential.insert
)
# What else of torch works on every module: set_submodule, and what functional_call calls.
ACCESS: Final = accessor.set_tensor, accessor.swap_tensor
WORKING: Final = _codes(
    TorchModule.set_submodule, accessor.NamedMemberAccessor.get_submodule, *ACCESS
)

# Python packages and modules that leave out, without a word, what is no torch.nn.Module.
SELECTING: Final = (
    "accelerate.",
    "optimum.",
    "thop.",
    "torch.ao.",
    "torch.distributed.fsdp.",
    "torch.nn.modules.batchnorm",  # convert_sync_batchnorm
    "torch.nn.utils.memory_format",
    "torch.optim.swa_utils",  # update_bn
    "torch.utils.mkldnn",
    "torchao.",
    "torchview.",
)

_set_class: Final = object.__dict__["__class__"].__set__


class ClassChecks:
    """Gives a module the property ``__class__``, which is ``type(self)`` everywhere but there."""

    _bridge: ClassVar[Callable[..., Any]]  # cupola.nn.to_torch, set where that is defined

    @property
    def __class__(self) -> Any:
        caller = sys._getframe(1)
        code = id(caller.f_code)
        if code in ASSIGNING or code in WORKING:
            if code in ASSIGNING:
                self._bridge()
            return torch.nn.Module  # what isinstance compares with torch.nn.Module
        package = caller.f_globals.get("__name__")
        if skips_others(package):
            raise not_bridged(self, package)
        return type(self)

    @__class__.setter
    def __class__(self, cls: type) -> None:
        _set_class(self, cls)


@cache
def skips_others(package: Any) -> bool:
    """Whether code of a Python package or module leaves out what is no torch.nn.Module."""
    return str(package).startswith(SELECTING)


def not_bridged(module: ClassChecks, package: Any) -> NotBridgedError:
    """The error for a module that such code would leave out."""
    return NotBridgedError(
        f"{package} works on torch.nn.Modules, and {type(module).__name__} is a cupola.nn.Module: "
        "call cupola.nn.to_torch(module) first, which converts it in place"
    )
