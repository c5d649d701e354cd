"""The bridge: converts a tree of cupola modules to torch.nn.Modules in place.

Each module gets a class that derives from its own class and from a torch class: the layer of the
same name if torch has one, else torch.nn.Module. Nothing is copied; attributes, parameters and
hooks stay where they are. Cupola's methods come first, but calls go through torch if there are
hooks or tracers, so that export and sharding see them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch.nn.modules import module as torch_module

from cupola.nn.module import Module
from cupola.nn.traversal import AnyModule

LAYERS = "cupola.nn.layers."
UNTRACED_CALL = torch.nn.Module.__call__


class _Quiet:
    """Comes before the bases of a bridged class: it is no subclass that these are told of."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


class BridgedType(type):
    """The type of bridged classes. The class of a bridged layer equals its torch counterpart.

    Tools that replace layers look up the exact class in a table (quantization: torch.nn.Linear ->
    its quantized form), which would not find a subclass but finds an equal class.
    """

    counterpart: type | None

    def mro(cls) -> list[type]:
        """The order of bases, with _Quiet before those of a bridged class."""
        found = super().mro()
        if "bridged_from" in cls.__dict__:
            found.insert(1, _Quiet)
        return found

    def __eq__(cls, other: object) -> bool:
        return cls is other or (other is not None and cls.__dict__.get("counterpart") is other)

    def __hash__(cls) -> int:
        twin = cls.__dict__.get("counterpart")
        return type.__hash__(cls) if twin is None else hash(twin)


def to_torch(module: Module) -> torch.nn.Module:
    """Make every module of the tree a torch.nn.Module in place; return the root.

    Cupola modules that are added to it later are bridged as well. If a class cannot be bridged,
    nothing is changed.
    """
    parts = list(module.modules())
    ours = [part for part in parts if not isinstance(part, torch.nn.Module)]
    classes = [bridged_class(type(part)) for part in ours]
    changed: list[tuple[AnyModule, type]] = []
    try:
        for part, cls in zip(ours, classes, strict=True):
            before = type(part)
            part.__class__ = cls
            changed.append((part, before))
            part.__dict__.setdefault("training", part.training)
    except Exception:
        for part, before in changed:
            part.__class__ = before
        raise
    for part in parts:  # what a lazy layer becomes
        if issubclass(getattr(part, "cls_to_become", None) or object, Module):
            part.__dict__["cls_to_become"] = bridged_class(part.cls_to_become)
    return cast(torch.nn.Module, module)


Module._bridge = to_torch


def from_torch(module: AnyModule) -> AnyModule:
    """Undo :func:`to_torch` for every module of the tree in place; return the root."""
    for part in list(module.modules()):
        original = type(part).__dict__.get("bridged_from")
        if original is not None:
            part.__class__ = original
        part.__dict__.pop("cls_to_become", None)
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
    namespace: dict[str, Any] = {
        # Tracers treat modules of torch.nn as leaves.
        "__module__": twin.__module__ if twin and exact else cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": object.__dict__["__class__"],
        "__call__": _call_through_torch,
        "__reduce_ex__": _reduce,
        "__init_subclass__": classmethod(_init_subclass),
        "_keep": _keep,
        "_replace_members": _replace_members,
        "bridged_from": cls,
        "counterpart": twin if exact else None,
        "_torchdynamo_orig_callable": property(_missing),  # torch.compile knows torch modules
    }
    if exact and twin is torch.nn.Sequential:  # ours says that it takes anything: no TorchScript
        namespace["forward"] = torch.nn.Sequential.forward
    return _type_for(type(cls))(cls.__name__, (cls, twin or torch.nn.Module), namespace)


@cache
def _type_for(metaclass: type) -> type:
    """The type of the bridged classes of classes that have a metaclass, such as ABCMeta."""
    if metaclass is type:
        return BridgedType
    return type(f"Bridged{metaclass.__name__}", (BridgedType, metaclass), {})


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


def _init_subclass(cls: Any, /, **kwargs: Any) -> None:
    super(_Quiet, cls).__init_subclass__(**kwargs)  # a class that derives from a bridged one


def _keep(self: Any, name: str, value: Any, kind: str) -> None:
    Module._keep(self, name, _bridged_child(value), kind)


def _replace_members(self: Any, members: Mapping[str, Any], *kinds: str) -> None:
    bridged = {name: _bridged_child(value) for name, value in members.items()}
    Module._replace_members(self, bridged, *kinds)


def _bridged_child(value: Any) -> Any:
    return to_torch(value) if isinstance(value, Module) else value


def _missing(self: Any) -> Any:
    raise AttributeError("_torchdynamo_orig_callable")


def _reduce(self: Any, protocol: Any) -> Any:
    # A bridged class cannot be imported by its name; it is created again from its cupola class.
    if "bridged_from" not in type(self).__dict__:  # derived from a bridged class
        return object.__reduce_ex__(self, protocol)
    return _rebuild, (type(self).bridged_from,), self.__getstate__()


def _rebuild(cls: type) -> AnyModule:
    return object.__new__(bridged_class(cls))
