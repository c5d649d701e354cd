"""The bridge: converts a tree of cupola modules to torch.nn.Modules in place.

A layer that torch has as well gets torch's class. A container, or a module of any other class, gets
a class that derives from its own; there, the methods of torch.nn.Module stand in for those of this
package. The attributes, tensors and hooks stay the same objects.
"""

import copy
from collections.abc import Iterable, MutableMapping
from functools import cache
from typing import Any, Final, cast

import torch
from torch.nn.modules import module as torch_module
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import is_parametrized

from cupola.nn.layers import TWINS, Linear, ModuleDict, ModuleList, MultiheadAttention, Sequential
from cupola.nn.members import FROM_CUPOLA, MODULES
from cupola.nn.module import Module
from cupola.nn.traversal import AnyModule

CONTAINERS: Final = frozenset({Sequential, ModuleList, ModuleDict})
ORIGINALS: Final = {twin: cls for cls, twin in TWINS.items()} | {
    NonDynamicallyQuantizableLinear: Linear
}
UNTRACED_CALL: Final = torch.nn.Module.__call__


def to_torch(module: Module) -> torch.nn.Module:
    """Make every module of the tree a torch.nn.Module in place; return the root. Cupola modules
    that are added later are bridged as well. If a class cannot be bridged, nothing changes."""
    parts = list(module.modules())
    classes = _classes([part for part in parts if not isinstance(part, torch.nn.Module)])
    before = [(part, type(part), part.__dict__.copy()) for part in classes]
    try:
        for part, cls in classes.items():
            _become(part, cls, _torch_state(part))
    except Exception:
        for part, cls, state in before:
            _become(part, cls, state)
        raise
    for part in parts:
        if isinstance(part, Module) and part in classes:  # no layer of torch: it may get children
            part._modules = Children(part._modules)
        if issubclass(getattr(part, "cls_to_become", None) or object, Module):  # a lazy layer
            part.__dict__["cls_to_become"] = bridged_class(part.cls_to_become)
    return cast(torch.nn.Module, module)


Module._bridge = to_torch


def from_torch(module: AnyModule) -> AnyModule:
    """Undo :func:`to_torch` for every module of the tree in place; return the root."""
    for part in list(module.modules()):
        part.__dict__.pop("cls_to_become", None)
        state = part.__dict__.copy()
        cls, is_layer = _class(part), state.pop(FROM_CUPOLA, False)
        original = cls.__dict__.get("bridged_from") or (ORIGINALS.get(cls) if is_layer else None)
        if original is not None:
            _become(part, _derived_like(part, original), {})
            Module.__setstate__(part, state)
    return module


def bridged_class(cls: type, layer: type | None = None) -> type:
    """Return the class that modules of a cupola class get when they are bridged. `layer` is the
    layer of torch as which they count if their class extends none."""
    return TWINS[cls] if cls in TWINS and cls not in CONTAINERS else _derived_class(cls, layer)


def _classes(parts: Iterable[AnyModule]) -> dict[AnyModule, type]:
    classes = {
        part: _derived_like(part, bridged_class(_class(part), part._torch_layer)) for part in parts
    }
    for part in parts:
        if isinstance(part, MultiheadAttention) and classes.get(part.out_proj) is torch.nn.Linear:
            classes[part.out_proj] = NonDynamicallyQuantizableLinear  # attention reads its weight
    return classes


def _class(part: AnyModule) -> type:
    """Return the class of a module before torch.nn.utils.parametrize derived one for it."""
    cls = type(part)
    return cls.__bases__[0] if is_parametrized(part) else cls


def _derived_like(part: AnyModule, cls: type) -> type:
    """Return a class, or what parametrize would derive from it for a parametrized module."""
    if not is_parametrized(part):
        return cls
    own = {name: value for name, value in vars(type(part)).items() if name not in _OF_EACH_CLASS}
    return type(cls)(type(part).__name__, (cls,), own)


_OF_EACH_CLASS: Final = frozenset({"__call__", "__dict__", "__weakref__", "_abc_impl"})


def _torch_state(part: Module) -> dict[str, Any]:
    state = torch.nn.Module().__dict__ | Module.__getstate__(part) | {"training": part.training}
    return state | {FROM_CUPOLA: True} if _class(part) in TWINS else state


def _become(part: AnyModule, cls: type, state: dict[str, Any]) -> None:
    part.__class__ = cls
    part.__dict__.clear()
    part.__dict__.update(state)


class Bridge:
    """What a bridged module does differently from other torch.nn.Modules."""

    bridged_from: type
    counts_as: type | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "bridged_from" not in cls.__dict__:  # a class that derives from a bridged one
            super().__init_subclass__(**kwargs)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = torch.nn.Module.__call__  # looked up at each call: tracers replace it for a while
        if (
            call is not UNTRACED_CALL
            or self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or self._compiled_call_impl is not None
            or torch_module._global_forward_hooks
            or torch_module._global_forward_pre_hooks
            or torch_module._global_backward_hooks
            or torch_module._global_backward_pre_hooks
            or torch._C._get_tracing_state()
        ):
            return call(self, *args, **kwargs)
        return self.forward(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, Children(value) if name == MODULES else value)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        # A bridged class cannot be imported by its name; it is made again from its cupola class.
        if "bridged_from" not in type(self).__dict__:  # derived from a bridged class
            return object.__reduce_ex__(self, protocol)
        state = self.__getstate__()
        if self.bridged_from in CONTAINERS:  # is saved as torch's, for weights-only loading
            return TWINS[self.bridged_from], (), state | {MODULES: dict(state[MODULES])}
        return _rebuild, (self.bridged_from, type(self).counts_as), state


class BridgedType(type):
    """The type of bridged classes: the methods of torch.nn.Module come before cupola's core."""

    def mro(cls) -> list[type]:
        """Return the order of bases."""
        found = super().mro()
        if "bridged_from" not in cls.__dict__:
            return found
        theirs = list(cls.__bases__[-1].__mro__[:-1])
        ours = [base for base in found if base not in theirs and base not in _CORE]
        at = ours.index(Module)
        return ours[:at] + theirs + ours[at:]


_CORE: Final = frozenset(Module.__mro__) - {Module, object}


@cache
def _derived_class(cls: type, layer: type | None) -> type:
    extended = (TWINS[base] for base in cls.__mro__ if base in TWINS)
    twin = next(extended, layer or torch.nn.Module)
    is_container = cls in CONTAINERS
    namespace: dict[str, Any] = {
        "__module__": twin.__module__ if is_container else cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "bridged_from": cls,
        "counts_as": layer,
    }
    if is_container:
        namespace["__deepcopy__"] = _deepcopy
    if cls is Sequential:  # ours says that it takes anything: no TorchScript
        namespace["forward"] = torch.nn.Sequential.forward
    return _type_for(type(cls))(cls.__name__, (Bridge, cls, twin), namespace)


@cache
def _type_for(metaclass: type) -> type:
    """The type of the bridged classes of classes that have a metaclass, such as ABCMeta."""
    return type(f"Bridged{metaclass.__name__}", (BridgedType, metaclass), {})


class Children(dict[str, Any]):
    """The children of a bridged module: those that are added are bridged as well."""

    def __init__(self, children: Any) -> None:
        super().__init__({name: _bridged_child(child) for name, child in children.items()})

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, _bridged_child(value))

    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def _bridged_child(value: Any) -> Any:
    return to_torch(value) if isinstance(value, Module) else value


def _deepcopy(self: Any, memo: dict[int, Any]) -> AnyModule:
    new = memo[id(self)] = object.__new__(type(self))
    new.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return new


def _rebuild(cls: type, layer: type | None) -> AnyModule:
    return object.__new__(bridged_class(cls, layer))
