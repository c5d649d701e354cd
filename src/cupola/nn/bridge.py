"""The bridge: a tree of our modules as a tree of torch.nn.Modules, in place.

Each module gets a class made of its own class and a torch one: the layer of the same name where
torch has it, else torch.nn.Module. Nothing is copied; attributes, parameters and hooks stay where
they are. What our classes define comes first; calls go through torch wherever someone is looking
(hooks, tracers), so that exporting and sharding see them.
"""

from typing import Any, cast

import torch
from torch.nn.modules import module as torch_module

from cupola.nn.module import Module
from cupola.nn.traversal import AnyModule

LAYERS = "cupola.nn.layers."
UNTRACED_CALL = torch.nn.Module.__call__


class BridgedType(type):
    """The type of bridged classes. A bridged layer equals its torch twin.

    Tools that replace layers look their exact class up in a table (quantization: torch.nn.Linear
    -> its quantized form). A subclass would not be found there; an equal class is.
    """

    stands_for: type | None

    def __eq__(cls, other: object) -> bool:
        return cls is other or (other is not None and cls.__dict__.get("stands_for") is other)

    def __hash__(cls) -> int:
        twin = cls.__dict__.get("stands_for")
        return type.__hash__(cls) if twin is None else hash(twin)


def to_torch(module: Module) -> torch.nn.Module:
    """Make every module of the tree a torch.nn.Module, in place; return the root.

    Run it again after adding children of ours to a bridged tree.
    """
    for part in list(module.modules()):
        if not isinstance(part, torch.nn.Module):
            part.__dict__.setdefault("training", part.training)
            part.__class__ = bridged_class(type(part))
    return cast(torch.nn.Module, module)


def from_torch(module: AnyModule) -> AnyModule:
    """Undo :func:`to_torch` for every module of the tree, in place; return the root."""
    for part in list(module.modules()):
        original = type(part).__dict__.get("bridged_from")
        if original is not None:
            part.__class__ = original
    return module


def bridged_class(cls: type) -> type:
    """Return the class that a module of a class of ours gets when it is bridged."""
    if cls not in _bridged:
        _bridged[cls] = _bridge(cls)
    return _bridged[cls]


_bridged: dict[type, type] = {}


def _bridge(cls: type) -> type:
    twin = torch_twin(cls)
    exact = cls.__module__.startswith(LAYERS)
    namespace = {
        # Tracers take modules of torch.nn for leaves.
        "__module__": twin.__module__ if twin and exact else cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__call__": _call_through_torch,
        "__reduce_ex__": _reduce,
        "bridged_from": cls,
        "stands_for": twin if exact else None,
        "_torchdynamo_orig_callable": property(_missing),  # torch.compile knows torch modules
    }
    return BridgedType(cls.__name__, (cls, twin or torch.nn.Module), namespace)


def torch_twin(cls: type) -> type | None:
    """Return the torch layer that a class of ours is or extends, or None."""
    for base in cls.__mro__:
        if base.__module__.startswith(LAYERS):
            twin = getattr(torch.nn, base.__name__, None)
            if twin is not None:
                return cast(type, twin)
    return None


def _call_through_torch(self: Any, *args: Any, **kwargs: Any) -> Any:
    call = torch.nn.Module.__call__  # looked up at each call: tracers replace it while they work
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
    # The class itself cannot be imported by its name; it is made again from ours.
    return _rebuild, (type(self).bridged_from,), self.__getstate__()


def _rebuild(cls: type) -> AnyModule:
    return object.__new__(bridged_class(cls))
