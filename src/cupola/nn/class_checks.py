"""What a module that is not bridged does where code for torch.nn.Module asks for its class.

``torch.nn.Module.__setattr__`` registers what ``isinstance(value, torch.nn.Module)`` accepts, and
stores anything else as an attribute whose parameters are neither listed, moved nor saved. Tools
that select layers by ``isinstance`` skip the others. Neither says so. But ``isinstance`` reads
``value.__class__`` before its answer is no, so a property of that name can act in time: an
assignment to a torch module bridges the value, and such a tool gets an error.
"""

import sys
from collections.abc import Callable
from typing import Any, ClassVar, Final

import torch

ASSIGNMENT: Final = torch.nn.Module.__setattr__.__code__

# Python packages that leave out, without a word, what is no torch.nn.Module.
SELECTING: Final = ("accelerate.", "torch.ao.", "torchao.")

_set_class: Final = object.__dict__["__class__"].__set__


class ClassChecks:
    """Gives a module the property ``__class__``, which is ``type(self)`` everywhere but there."""

    _bridge: ClassVar[Callable[..., Any]]  # cupola.nn.to_torch, set where that is defined

    @property
    def __class__(self) -> Any:
        caller = sys._getframe(1)
        if caller.f_code is ASSIGNMENT:
            self._bridge()
            return torch.nn.Module  # what isinstance compares with torch.nn.Module
        asking = caller.f_globals.get("__name__", "")
        if asking.startswith(SELECTING):
            raise TypeError(
                f"{asking.partition('.')[0]} works on torch.nn.Modules, and {type(self).__name__} "
                "is a cupola.nn.Module: call cupola.nn.to_torch(module) first, which converts it "
                "in place"
            )
        return type(self)

    @__class__.setter
    def __class__(self, cls: type) -> None:
        _set_class(self, cls)
