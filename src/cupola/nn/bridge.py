"""The bridge: converts a tree of cupola modules to torch.nn.Modules in place.

Each module gets a class that derives from its own class and from a torch class: the layer of the
same name if torch has one, else torch.nn.Module. Nothing is copied; attributes, parameters and
hooks stay where they are. Cupola's methods come first, but calls go through torch if there are
hooks or tracers, so that export and sharding see them.
"""

from typing import Any, cast

import torch
from torch.nn.modules import module as torch_module

from cupola.nn.module import Module
from cupola.nn.traversal import AnyModule

LAYERS = "cupola.nn.layers."
UNTRACED_CALL = torch.nn.Module.__call__


class BridgedType(type):
    """The type of bridged classes. The class of a bridged layer equals its torch counterpart.

    Tools that replace layers look up the exact class in a table (quantization: torch.nn.Linear ->
    its quantized form), which would not find a subclass but finds an equal class.
    """

    counterpart: type | None

    def __eq__(cls, other: object) -> bool:
        return cls is other or (other is not None and cls.__dict__.get("counterpart") is other)

    def __hash__(cls) -> int:
        twin = cls.__dict__.get("counterpart")
        return type.__hash__(cls) if twin is None else hash(twin)


def to_torch(module: Module) -> torch.nn.Module:
    """Make every module of the tree a torch.nn.Module in place; return the root.

    Call it again after adding cupola modules to a bridged tree.
    """
    for part in list(module.modules()):
        if not isinstance(part, torch.nn.Module):
            part.__dict__.setdefault("training", part.training)
            part.__class__ = bridged_class(type(part))
    return cast(torch.nn.Module, module)


def from_torch(module: AnyModule) -> AnyModule:
    """Undo :func:`to_torch` for every module of the tree in place; return the root."""
    for part in list(module.modules()):
        original = type(part).__dict__.get("bridged_from")
        if original is not None:
            part.__class__ = original
    return module


def bridged_class(cls: type) -> type:
    """Return the class that modules of a cupola class get when they are bridged."""
    if cls not in _bridged:
        _bridged[cls] = _bridge(cls)
    return _bridged[cls]


_bridged: dict[type, type] = {}


def _bridge(cls: type) -> type:
    twin = torch_layer(cls)
    exact = cls.__module__.startswith(LAYERS)
    namespace = {
        # Tracers treat modules of torch.nn as leaves.
        "__module__": twin.__module__ if twin and exact else cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__call__": _call_through_torch,
        "__reduce_ex__": _reduce,
        "bridged_from": cls,
        "counterpart": twin if exact else None,
        "_torchdynamo_orig_callable": property(_missing),  # torch.compile knows torch modules
    }
    return BridgedType(cls.__name__, (cls, twin or torch.nn.Module), namespace)


def torch_layer(cls: type) -> type | None:
    """Return the torch layer that corresponds to a class or one of its bases, or None."""
    for base in cls.__mro__:
        if base.__module__.startswith(LAYERS):
            twin = getattr(torch.nn, base.__name__, None)
            if twin is not None:
                return cast(type, twin)
    return None


def _call_through_torch(self: Any, *args: Any, **kwargs: Any) -> Any:
    call = torch.nn.Module.__call__  # looked up at each call: tracers replace it for a while
    if (
        call is not UNTRACED_CALL
        or self._hooked
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or torch._C._get_tracing_state()
    ):
        return call(self, *args, **kwargs)
    return self.forward(*args, **kwargs)


def _missing(self: Any) -> Any:
    raise AttributeError("_torchdynamo_orig_callable")


def _reduce(self: Any, protocol: Any) -> Any:
    # A bridged class cannot be imported by its name; it is created again from its cupola class.
    return _rebuild, (type(self).bridged_from,), self.__getstate__()


def _rebuild(cls: type) -> AnyModule:
    return object.__new__(bridged_class(cls))
