"""Walking a tree of modules: children, members, and the paths that name them."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from cupola.nn.members import BUFFER, MODULE, PARAMETER, TRANSIENT, Kinds
from cupola.nn.store import MODULE_TYPES, Store

# A cupola module or a torch.nn.Module. Both have the methods of this file.
AnyModule = Any
_PARAMETERS, _BUFFERS = frozenset({PARAMETER}), frozenset({BUFFER, TRANSIENT})


class Traversal(Store):
    """A store that can be walked. A walk goes on only as far as it is read; one generator keeps
    the way back up, since nested ones would pass every item through all levels above it."""

    def children(self) -> Iterator[AnyModule]:
        """Iterate over the direct children, each once."""
        seen = set()
        for _, child in child_slots(self):
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
        return _walk(self, prefix, set() if memo is None else memo, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Iterate over the parameters, each once; ``recurse=False`` leaves out the children's."""
        for _, parameter in _members(self, _PARAMETERS, "", recurse, True):
            yield parameter

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (path, parameter); a shared one has the first path that leads to it."""
        return _members(self, _PARAMETERS, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Iterate over the buffers, each once; ``recurse=False`` leaves out the children's."""
        for _, buffer in _members(self, _BUFFERS, "", recurse, True):
            yield buffer

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (path, buffer); a shared one has the first path that leads to it."""
        return _members(self, _BUFFERS, prefix, recurse, remove_duplicate)

    _named_members: Callable[..., Iterator[tuple[str, Any]]] = torch.nn.Module._named_members

    def apply(self, fn: Callable[[AnyModule], None]) -> Self:
        """Call ``fn`` on every module below this one, then on this one; return self."""
        for child in distinct_children(self):
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
    return (values, values["_kinds"]) if "_kinds" in values else _torch_layout(values)


def _torch_layout(state: dict[str, Any]) -> tuple[dict[str, Any], Kinds]:
    parameters, buffers, modules = (state[name] for name in ("_parameters", "_buffers", "_modules"))
    transient = state.get("_non_persistent_buffers_set", ())
    kinds = dict.fromkeys(parameters, PARAMETER)
    kinds |= {name: TRANSIENT if name in transient else BUFFER for name in buffers}
    kinds |= dict.fromkeys(modules, MODULE)
    return {**parameters, **buffers, **modules}, kinds


def from_torch_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the ``__dict__`` of a torch module in the form that a cupola module has."""
    values, kinds = _torch_layout(state)
    tables = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    hooks = {name for name, value in state.items() if name.endswith("_hooks") or "_hooks_" in name}
    used = {name for name in hooks if state[name]}
    plain = {key: value for key, value in state.items() if key not in tables | (hooks - used)}
    return plain | values | {"_kinds": kinds} | ({"_hooked": True} if used else {})


def child_slots(module: AnyModule) -> Collection[tuple[str, AnyModule]]:
    """Return (name, child or None) for every child slot of a cupola or torch module, live."""
    values = module.__dict__
    children = values.get("_modules")
    if children is None:
        if MODULE not in values["_kinds"].values():
            return ()
        children = module._modules
    return cast(Collection[tuple[str, AnyModule]], children.items())


def distinct_children(module: AnyModule) -> list[AnyModule]:
    """Return the children of a cupola or torch module at this moment, each once."""
    slots = child_slots(module)
    return list(dict.fromkeys([child for _, child in slots if child is not None])) if slots else []


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
            if children := child_slots(child):
                ways.append((below + ".", iter(children)))
                break
        else:
            ways.pop()


def _members(
    module: AnyModule, wanted: frozenset[str], prefix: str, recurse: bool, dedupe: bool
) -> Iterator[tuple[str, Any]]:
    """Yield (path, member) of some kinds in pre-order: :func:`_walk` and the members in one."""
    seen: set[int] = set()
    memo: set[AnyModule] = set()
    ways: list[tuple[str, Iterator[tuple[str, AnyModule]]]] = [("", iter([(prefix, module)]))]
    while ways:
        stem, way = ways[-1]
        for name, owner in way:
            if owner is None or owner in memo:
                continue
            if dedupe:
                memo.add(owner)
            values = owner.__dict__
            kinds = values.get("_kinds")
            if kinds is None:
                values, kinds = layout(owner)
            below = f"{stem}{name}." if name else stem
            has_only_children = len(kinds) == len(values.get("_modules", ()))
            if not has_only_children and not wanted.isdisjoint(kinds.values()):
                for key, kind in list(kinds.items()):
                    if kind in wanted and (it := values[key]) is not None and id(it) not in seen:
                        if dedupe:
                            seen.add(id(it))
                        yield below + key, it
            if recurse and kinds and (has_only_children or MODULE in kinds.values()):
                ways.append((below, iter(child_slots(owner))))
                break
        else:
            ways.pop()
