"""Walking a tree of modules: children, members, and the paths that name them."""

from collections.abc import Callable, ItemsView, Iterator
from typing import Any, Self

from torch import Tensor
from torch.nn import Parameter

from cupola.nn.class_checks import TorchModule, not_bridged, skips_others
from cupola.nn.members import BUFFERS, EMPTY, MODULES, PARAMETERS, table_of
from cupola.nn.store import MODULE_TYPES, Store

# A cupola module or a torch.nn.Module. Both have the methods of this file.
AnyModule = Any


class Traversal(Store):
    """A store that can be walked. A walk goes on only as far as it is read; one generator keeps
    the way back up, since nested ones would pass every item through all levels above it."""

    def children(self) -> Iterator[AnyModule]:
        """Iterate over the direct children, each once."""
        seen = set()
        for child in table_of(self, MODULES).values():
            if child is not None and child not in seen:
                seen.add(child)
                yield child

    def named_children(self) -> Iterator[tuple[str, AnyModule]]:
        """Iterate over (name, child) for the direct children, each once, without empty slots."""
        seen = set()
        for name, child in child_slots(self):
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def modules(self, remove_duplicate: bool = True) -> Iterator[AnyModule]:
        """Iterate over this module and all below it, in pre-order."""
        for _, module in _walk(self, "", set(), remove_duplicate):
            yield module

    def named_modules(
        self, memo: set[AnyModule] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, AnyModule]]:
        """Iterate over (path, module) in pre-order; a module has the first path that leads to it.
        Those in ``memo`` are left out. Without ``remove_duplicate`` a module has all its paths."""
        return _walk(self, prefix, set() if memo is None else memo, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Iterate over the parameters, each once; ``recurse=False`` leaves out the children's."""
        for _, parameter in _members(self, PARAMETERS, "", recurse, True):
            yield parameter

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (path, parameter); a shared one has the first path that leads to it."""
        return _members(self, PARAMETERS, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Iterate over the buffers, each once; ``recurse=False`` leaves out the children's."""
        for _, buffer in _members(self, BUFFERS, "", recurse, True):
            yield buffer

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (path, buffer); a shared one has the first path that leads to it."""
        return _members(self, BUFFERS, prefix, recurse, remove_duplicate)

    _named_members: Callable[..., Iterator[tuple[str, Any]]] = TorchModule._named_members

    def apply(self, fn: Callable[[AnyModule], None]) -> Self:
        """Call ``fn`` on every module below this one, then on this one; return self."""
        package = getattr(fn, "__module__", None)
        if skips_others(package):  # thop looks up type(module), which asks nothing of the module
            raise not_bridged(self, package)
        for child in distinct_children(self):
            child.apply(fn)
        fn(self)
        return self

    def get_submodule(self, target: str) -> AnyModule:
        """Return the module at a dotted path; "" is this module. AttributeError names the first
        step that is missing or not a module."""
        module: AnyModule = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, MODULE_TYPES):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    set_submodule: Callable[..., None] = TorchModule.set_submodule
    get_parameter: Callable[[Any, str], Parameter] = TorchModule.get_parameter
    get_buffer: Callable[[Any, str], Tensor] = TorchModule.get_buffer


def child_slots(module: AnyModule) -> ItemsView[str, AnyModule]:
    """Return (name, child or None) for every child slot of a cupola or torch module, live."""
    return table_of(module, MODULES).items()


def distinct_children(module: AnyModule) -> list[AnyModule]:
    """Return the children of a cupola or torch module at this moment, each once."""
    children = module.__dict__.get(MODULES)
    return [it for it in dict.fromkeys(children.values()) if it is not None] if children else []


def _walk(
    module: AnyModule, path: str, memo: set[AnyModule], remove_duplicate: bool
) -> Iterator[tuple[str, AnyModule]]:
    """Yield (path, module) in pre-order."""
    if module in memo:
        return
    if remove_duplicate:
        memo.add(module)
    yield path, module
    ways = [(f"{path}." if path else "", iter(child_slots(module)))]
    while ways:
        stem, slots = ways[-1]
        for name, child in slots:
            if child is None or child in memo:
                continue
            if remove_duplicate:
                memo.add(child)
            below = stem + name
            yield below, child
            if children := child.__dict__.get(MODULES):
                ways.append((below + ".", iter(children.items())))
                break
        else:
            ways.pop()


def _members(
    module: AnyModule, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
) -> Iterator[tuple[str, Any]]:
    """Yield (path, member) of one kind in pre-order."""
    seen: set[int] = set()
    owners = _walk(module, prefix, set(), remove_duplicate) if recurse else ((prefix, module),)
    for path, owner in owners:
        if table := owner.__dict__.get(kind, EMPTY):
            stem = f"{path}." if path else ""
            for name, member in list(table.items()):
                if member is not None and id(member) not in seen:
                    if remove_duplicate:
                        seen.add(id(member))
                    yield stem + name, member
