"""Walking a tree of modules: children, members, and paths that name them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from cupola.nn.store import BUFFER, MODULE, MODULE_TYPES, PARAMETER, TRANSIENT, Store

# A child is one of our modules or a torch.nn.Module; both have the methods of this file.
AnyModule = Any


class Traversal(Store):
    """A store that can be walked. Walks build lists: twice as quick as nested generators."""

    def children(self) -> Iterator[AnyModule]:
        """Return the direct children, each once."""
        return iter([child for _, child in self.named_children()])

    def named_children(self) -> Iterator[tuple[str, AnyModule]]:
        """Return (name, child) for the direct children, each once, without empty slots."""
        seen = set()
        found = []
        for name, child in child_slots(self):
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found.append((name, child))
        return iter(found)

    def modules(self, remove_duplicate: bool = True) -> Iterator[AnyModule]:
        """Return this module and all below it, in pre-order."""
        walk = self.named_modules(remove_duplicate=remove_duplicate)
        return iter([module for _, module in walk])

    def named_modules(
        self,
        memo: set[AnyModule] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, AnyModule]]:
        """Return (path, module) in pre-order; a module has the first path that leads to it.

        Args:
            memo: modules to leave out; those found are added.
            prefix: put in front of every path.
            remove_duplicate: False gives every path of a shared module.
        """
        found: list[tuple[str, AnyModule]] = []
        _walk(self, prefix, set() if memo is None else memo, remove_duplicate, found)
        return iter(found)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Return the parameters, each once; ``recurse=False`` leaves out the children's."""
        return iter([param for _, param in self.named_parameters(recurse=recurse)])

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Return (path, parameter); a shared parameter has the first path that leads to it."""
        return iter(self._find(own_parameters, prefix, recurse, remove_duplicate))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Return the buffers, each once; ``recurse=False`` leaves out the children's."""
        return iter([buffer for _, buffer in self.named_buffers(recurse=recurse)])

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Return (path, buffer); a shared buffer has the first path that leads to it."""
        return iter(self._find(own_buffers, prefix, recurse, remove_duplicate))

    def _named_members(
        self,
        get_members_fn: Callable[[AnyModule], Iterable[tuple[str, Any]]],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        return iter(self._find(get_members_fn, prefix, recurse, remove_duplicate))

    def _find(
        self,
        members_of: Callable[[AnyModule], Iterable[tuple[str, Any]]],
        prefix: str,
        recurse: bool,
        remove_duplicate: bool,
    ) -> list[tuple[str, Any]]:
        walk: Iterable[tuple[str, AnyModule]] = ((prefix, self),)
        if recurse:
            walk = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        seen: set[int] = set()
        found = []
        for path, module in walk:
            for name, value in members_of(module):
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                found.append((f"{path}.{name}" if path else name, value))
        return found

    def apply(self, fn: Callable[[AnyModule], None]) -> Self:
        """Call ``fn`` on every module below this one, then on this one; return self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def get_submodule(self, target: str) -> AnyModule:
        """Return the module at a dotted path; "" is this module.

        Raises:
            AttributeError: naming the first step that is missing or no module.
        """
        module: AnyModule = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, MODULE_TYPES):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: AnyModule, strict: bool = False) -> None:
        """Put a module at a dotted path whose parent exists; ``strict`` only replaces.

        Raises:
            ValueError: an empty path, or something that is no module.
            AttributeError: a step is missing, or the target is no module.
        """
        if target == "":
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, MODULE_TYPES):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{parent._get_name()} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), MODULE_TYPES):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter at a dotted path, or raise AttributeError."""
        _, name, value = self._get_member(target)
        if not isinstance(value, torch.nn.Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return value

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer at a dotted path, or raise AttributeError."""
        module, name, value = self._get_member(target)
        if name not in module._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        buffer: Tensor = value
        return buffer

    def _get_member(self, target: str) -> tuple[AnyModule, str, Any]:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
        return module, name, getattr(module, name)


def child_slots(module: AnyModule) -> list[tuple[str, AnyModule]]:
    """Return (name, child or None) for every child slot of one of our modules or torch's."""
    if not isinstance(module, Store):
        return list(module._modules.items())
    values = module.__dict__
    return [(name, values[name]) for name, kind in module._kinds.items() if kind == MODULE]


def own_parameters(module: AnyModule) -> list[tuple[str, Parameter | None]]:
    """Return (name, parameter or None) for the slots of this module alone."""
    if not isinstance(module, Store):
        return list(module._parameters.items())
    values = module.__dict__
    return [(name, values[name]) for name, kind in module._kinds.items() if kind == PARAMETER]


def own_buffers(module: AnyModule) -> list[tuple[str, Tensor | None]]:
    """Return (name, buffer or None) for the slots of this module alone."""
    if not isinstance(module, Store):
        return list(module._buffers.items())
    values = module.__dict__
    kinds = module._kinds.items()
    return [(name, values[name]) for name, kind in kinds if kind in (BUFFER, TRANSIENT)]


def _walk(
    module: AnyModule,
    prefix: str,
    memo: set[AnyModule],
    remove_duplicate: bool,
    found: list[tuple[str, AnyModule]],
) -> None:
    if module in memo:
        return
    if remove_duplicate:
        memo.add(module)
    found.append((prefix, module))
    for name, child in child_slots(module):
        if child is not None:
            path = f"{prefix}.{name}" if prefix else name
            _walk(child, path, memo, remove_duplicate, found)
