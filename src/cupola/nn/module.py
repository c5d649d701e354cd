"""Module: the base class of every model and layer."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from cupola.nn.conversion import Conversion
from cupola.nn.hooks import HOOKED, NO_HOOKS
from cupola.nn.loading import Loading

# It takes any module (class_checks.py).
functional_call: Callable[..., Any] = torch.func.functional_call


class Calls(Loading, Conversion):
    """The call of a module, and its printed form."""

    _compiled_call_impl: Callable[..., Any] | None = None
    # torch.jit.script compiles every other property.
    __jit_unused_properties__ = ("_torchdynamo_orig_callable", "_torchdynamo_wrapper_id")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # torch.compile caches by code object. With a copy per class, the classes do not share one
        # recompile limit.
        if "__call__" not in cls.__dict__ and getattr(cls.__call__, "is_module_call", False):
            cls.__call__ = _copy_of_call()  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks around it."""
        if (
            self._is_full_backward_hook is not NO_HOOKS
            or torch_module._global_forward_hooks
            or torch_module._global_forward_pre_hooks
            or torch_module._global_backward_hooks
            or torch_module._global_backward_pre_hooks
        ):
            if self._compiled_call_impl is not None:
                return self._compiled_call_impl(args, kwargs)
            return self._call_with_hooks(args, kwargs)
        if kwargs:
            return self.forward(*args, **kwargs)
        return self.forward(*args)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass that is called defines it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    @property
    def _torchdynamo_orig_callable(self) -> Callable[..., Any]:
        # torch.compile(module) compiles what this returns: the call of this class.
        return self.__call__

    @property
    def _torchdynamo_wrapper_id(self) -> int:
        return id(self)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the call in place with :func:`torch.compile`, which takes all arguments."""
        self.__dict__["_compiled_call_impl"] = torch.compile(self._call_with_hooks, *args, **kwargs)
        self.__dict__.setdefault(HOOKED, None)

    def extra_repr(self) -> str:
        """Return the text between the parentheses of the printed form."""
        return ""

    __repr__ = torch.nn.Module.__repr__


class Module(Calls):
    """A tree of parameters, buffers and children with a ``forward``; use it as torch.nn.Module.
    Subclasses call ``super().__init__()``, assign their members, and define ``forward``."""

    # In the class of a bridged module, this class stays, and its bases give way to torch's.
    # This is the layer of torch as which it then counts, if its class extends none.
    _torch_layer: type[torch.nn.Module] | None = None


_call = Calls.__call__
_call.is_module_call = True  # type: ignore[attr-defined]


def _copy_of_call() -> Callable[..., Any]:
    copy = FunctionType(_call.__code__.replace(), _call.__globals__)
    copy.__dict__.update(_call.__dict__)
    copy.__doc__ = _call.__doc__
    return copy
