"""Modules that hold modules: Sequential, ModuleList, ModuleDict.

Source: torch.nn.modules.container.
"""

import operator
from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from itertools import chain, islice
from typing import Any, Self, TypeVar, overload

import torch

from cupola.nn.layers.factory import Layer
from cupola.nn.module import Module
from cupola.nn.store import MODULE_TYPES
from cupola.nn.traversal import AnyModule, child_slots

TorchDict = torch.nn.ModuleDict
Made = TypeVar("Made", bound=Module)


class NumberedModules(Layer):
    """Children with the names "0", "1", ...: the base of Sequential and ModuleList."""

    def _items(self) -> list[AnyModule]:
        if torch.compiler.is_compiling():
            # An exporter names a module by the way it was reached.
            return [getattr(self, name) for name in self._modules]
        return list(self._modules.values())

    def _place(self, index: Any) -> int:
        place, size = operator.index(index), len(self._modules)
        if not -size <= place < size:
            raise IndexError(f"index {place} is out of range")
        return place % size

    def _item_at(self, index: int) -> AnyModule:
        return next(islice(self._modules.values(), self._place(index), None))

    def _renumber(self, items: Iterable[AnyModule]) -> None:
        self._modules = {str(i): item for i, item in enumerate(items)}

    def __setitem__(self, idx: int, module: AnyModule) -> None:
        setattr(self, list(self._modules)[self._place(idx)], module)

    def __delitem__(self, idx: int | slice) -> None:
        items = self._items()
        del items[idx if isinstance(idx, slice) else self._place(idx)]
        self._renumber(items)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[AnyModule]:
        return iter(self._modules.values())

    def append(self, module: AnyModule) -> Self:
        """Add a module at the end; return self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[AnyModule]) -> Self:
        """Add modules at the end; return self. TypeError if it is not an iterable."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend should be called with an iterable, but got "
                f"{type(modules).__name__}"
            )
        for module in list(modules):
            self.append(module)
        return self

    def _like_this(self, made: Made) -> Made:
        """Return a new container, bridged if this one is."""
        return made._bridge() if issubclass(type(self), torch.nn.Module) else made

    def pop(self, key: int | slice) -> AnyModule:
        """Remove and return the module or modules at an index or slice."""
        item = self[key]  # type: ignore[index]
        del self[key]
        return item


class Sequential(NumberedModules):
    """Calls its children in order, each with the output of the one before. ``args`` are modules,
    or one OrderedDict of name -> module."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = enumerate(args)
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            named = args[0].items()  # type: ignore[assignment]
        for name, module in named:
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        """Pass the input through all children in order."""
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, idx: int | slice) -> AnyModule:
        if isinstance(idx, slice):
            return type(self)(OrderedDict(list(child_slots(self))[idx]))
        return self._item_at(idx)

    def insert(self, index: int, module: AnyModule) -> Self:
        """Insert a module before an index; return self. AssertionError if it is not a module,
        IndexError if the index is out of range."""
        if not isinstance(module, MODULE_TYPES):
            raise AssertionError(f"module should be of type: {Module}")
        items = self._items()
        if not -len(items) <= index <= len(items):
            raise IndexError(f"Index out of range: {index}")
        items.insert(index, module)
        self._renumber(items)
        return self

    def __add__(self, other: "Sequential") -> "Sequential":
        return self._like_this(Sequential(*self, *_require_sequential(other)))

    def __iadd__(self, other: "Sequential") -> Self:
        return self.extend(_require_sequential(other))

    def __mul__(self, other: int) -> "Sequential":
        return self._like_this(Sequential(*(self._items() * self._require_count(other))))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        return self.extend(self._items() * (self._require_count(other) - 1))

    def _require_count(self, count: int) -> int:
        if not isinstance(count, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(count)}")
        if count <= 0:
            raise ValueError(f"Non-positive multiplication factor {count} for {type(self)}")
        return count


class ModuleList(NumberedModules):
    """A list of child modules. It has no forward of its own."""

    def __init__(self, modules: Iterable[AnyModule] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, idx: int) -> AnyModule: ...
    @overload
    def __getitem__(self, idx: slice) -> "ModuleList": ...
    def __getitem__(self, idx: int | slice) -> AnyModule:
        if isinstance(idx, slice):
            return type(self)(self._items()[idx])
        return self._item_at(idx)

    def insert(self, index: int, module: AnyModule) -> None:
        """Insert a module before an index."""
        items = self._items()
        items.insert(index, module)
        self._renumber(items)

    def __add__(self, other: Iterable[AnyModule]) -> "ModuleList":
        return self._like_this(ModuleList(chain(self, other)))

    def __iadd__(self, modules: Iterable[AnyModule]) -> Self:
        return self.extend(modules)

    __repr__ = torch.nn.ModuleList.__repr__  # runs of equal items on one line


class ModuleDict(Layer):
    """A dictionary of child modules, in insertion order."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> AnyModule:
        return self._modules[key]

    def __setitem__(self, key: str, module: AnyModule) -> None:
        self.add_module(key, module)

    __delitem__: Callable[[Any, str], None] = TorchDict.__delitem__
    __len__: Callable[[Any], int] = TorchDict.__len__
    __iter__: Callable[[Any], Iterator[str]] = TorchDict.__iter__
    __contains__: Callable[[Any, str], bool] = TorchDict.__contains__
    clear: Callable[[Any], None] = TorchDict.clear
    pop: Callable[[Any, str], AnyModule] = TorchDict.pop
    keys: Callable[[Any], KeysView[str]] = TorchDict.keys
    items: Callable[[Any], ItemsView[str, AnyModule]] = TorchDict.items
    values: Callable[[Any], ValuesView[AnyModule]] = TorchDict.values

    def update(self, modules: Any) -> None:
        """Add modules from a mapping or from (name, module) pairs; TypeError if it is neither of
        the two, ValueError for an element that is not a pair."""
        add: Callable[..., None] = TorchDict.update
        add(self, modules._modules if isinstance(modules, ModuleDict) else modules)


def _require_sequential(other: Any) -> Iterable[AnyModule]:
    if not isinstance(other, Sequential | torch.nn.Sequential):
        raise ValueError(
            f"add operator supports only objects of Sequential class, but {type(other)} is given."
        )
    return other
