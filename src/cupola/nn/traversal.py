"""Walking a tree of modules: children, members, and the paths that name them."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from cupola.nn.members import BUFFER, MODULE, PARAMETER, TRANSIENT, Kinds
from cupola.nn.store import MODULE_TYPES, Store

# A cupola module or a torch.nn.Module. Both have the methods of this file.
AnyModule = Any
_second = itemgetter(1)


class Traversal(Store):
    """A store that can be walked. Walks yield their first item at once and collect the others in a
    list, because nested generators would pass every item through all levels above it."""

    def children(self) -> Iterator[AnyModule]:
        """Iterate over the direct children, each once."""
        yield from map(_second, self.named_children())

    def named_children(self) -> Iterator[tuple[str, AnyModule]]:
        """Iterate over (name, child) for the direct children, each once, without empty slots."""
        seen = set()
        for name, child in child_slots(self):
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def modules(self, remove_duplicate: bool = True) -> Iterator[AnyModule]:
        """Iterate over this module and all below it, in pre-order."""
        yield from map(_second, self.named_modules(remove_duplicate=remove_duplicate))

    def named_modules(
        self,
        memo: set[AnyModule] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, AnyModule]]:
        """Iterate over (path, module) in pre-order; a module has the first path that leads to it.

        Args:
            memo: modules to leave out; those found are added.
            prefix: put in front of every path.
            remove_duplicate: False gives every path of a shared module.
        """
        memo = set() if memo is None else memo
        if self not in memo:
            yield prefix, self
            found: list[tuple[str, AnyModule]] = []
            _walk(self, prefix, memo, remove_duplicate, found)
            yield from found[1:]

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Iterate over the parameters, each once; ``recurse=False`` leaves out the children's."""
        yield from map(_second, self.named_parameters(recurse=recurse))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (path, parameter); a shared one has the first path that leads to it."""
        return _members(self, (PARAMETER,), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Iterate over the buffers, each once; ``recurse=False`` leaves out the children's."""
        yield from map(_second, self.named_buffers(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (path, buffer); a shared one has the first path that leads to it."""
        return _members(self, (BUFFER, TRANSIENT), prefix, recurse, remove_duplicate)

    _named_members: Callable[..., Iterator[tuple[str, Any]]] = torch.nn.Module._named_members

    def apply(self, fn: Callable[[AnyModule], None]) -> Self:
        """Call ``fn`` on every module below this one, then on this one; return self."""
        for _, child in self.named_children():
            child.apply(fn)
        fn(self)
        return self

    def get_submodule(self, target: str) -> AnyModule:
        """Return the module at a dotted path; "" is this module.

        Raises:
            AttributeError: naming the first step that is missing or not a module.
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
            ValueError: the path is empty, or ``module`` is not a module.
            AttributeError: a step is missing, or the target is not a module.
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


def layout(module: AnyModule) -> tuple[dict[str, Any], Kinds]:
    """Return the values and kinds of the members of a cupola or torch module."""
    values = module.__dict__
    if "_kinds" in values:
        return values, values["_kinds"]
    kinds = dict.fromkeys(module._parameters, PARAMETER)
    transient = module._non_persistent_buffers_set
    kinds |= {name: TRANSIENT if name in transient else BUFFER for name in module._buffers}
    kinds |= dict.fromkeys(module._modules, MODULE)
    return {**module._parameters, **module._buffers, **module._modules}, kinds


def child_slots(module: AnyModule) -> list[tuple[str, AnyModule]]:
    """Return (name, child or None) for every child slot of a cupola or torch module."""
    values, kinds = layout(module)
    return [(name, values[name]) for name, kind in kinds.items() if kind == MODULE]


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
    values, kinds = layout(module)
    if MODULE in kinds.values():
        stem = f"{prefix}." if prefix else ""
        for name, kind in kinds.items():
            if kind == MODULE and values[name] is not None:
                _walk(values[name], stem + name, memo, remove_duplicate, found)


def _members(
    module: AnyModule, wanted: tuple[str, ...], prefix: str, recurse: bool, dedupe: bool
) -> Iterator[tuple[str, Any]]:
    stem = f"{prefix}." if prefix else ""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    if recurse and dedupe and PARAMETER in wanted:
        # `next(model.parameters())` is the usual way to ask for a device: it should cost little.
        first = _first_parameter(module, stem)
        if first is None:
            return
        yield first
        seen.add(id(first[1]))
    _gather(module, stem, wanted, recurse, dedupe, seen, found)
    yield from found


def _first_parameter(module: AnyModule, stem: str) -> tuple[str, Any] | None:
    values, kinds = layout(module)
    if PARAMETER in kinds.values():
        for name, kind in kinds.items():
            if kind == PARAMETER and values[name] is not None:
                return stem + name, values[name]
    for name, kind in kinds.items():
        if kind == MODULE and values[name] is not None:
            found = _first_parameter(values[name], f"{stem}{name}.")
            if found is not None:
                return found
    return None


def _gather(
    module: AnyModule,
    stem: str,
    wanted: tuple[str, ...],
    recurse: bool,
    dedupe: bool,
    seen: set[int],
    found: list[tuple[str, Any]],
) -> None:
    """Append the members of some kinds in pre-order. ``seen`` holds ids of modules and tensors."""
    if dedupe:
        if id(module) in seen:
            return
        seen.add(id(module))
    values, kinds = layout(module)
    below = []
    for name, kind in kinds.items():
        value = values[name]
        if value is None:
            continue
        if kind == MODULE:
            below.append((name, value))
        elif kind in wanted and id(value) not in seen:
            if dedupe:
                seen.add(id(value))
            found.append((stem + name, value))
    if recurse:
        for name, child in below:
            _gather(child, f"{stem}{name}.", wanted, True, dedupe, seen, found)
