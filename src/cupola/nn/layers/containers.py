"""Modules that hold modules: Sequential, ModuleList, ModuleDict.

Source: torch.nn.modules.container.
"""

import operator
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import chain, islice
from typing import Any, Self, overload

import torch

from cupola.nn.layers.factory import Layer
from cupola.nn.module import Module
from cupola.nn.store import MODULE_TYPES
from cupola.nn.traversal import AnyModule, child_slots


class NumberedModules(Layer):
    """Children with the names "0", "1", ...: the base of Sequential and ModuleList."""

    def _items(self) -> list[AnyModule]:
        if torch.compiler.is_compiling():
            # An exporter names a module by the way it was reached.
            return [getattr(self, name) for name in self._modules]
        return list(self._modules.values())

    def _name_at(self, index: int) -> str:
        names = list(self._modules)
        try:
            return names[operator.index(index)]
        except IndexError:
            raise IndexError(f"index {index} is out of range") from None

    def _item_at(self, index: int) -> AnyModule:
        place, size = operator.index(index), len(self._modules)
        if not -size <= place < size:
            raise IndexError(f"index {place} is out of range")
        return next(islice(self._modules.values(), place % size, None))

    def _renumber(self, items: Iterable[AnyModule]) -> None:
        self._modules = {str(i): item for i, item in enumerate(items)}

    def __setitem__(self, idx: int, module: AnyModule) -> None:
        setattr(self, self._name_at(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        items = self._items()
        if not isinstance(idx, slice):
            self._name_at(idx)  # raises if it is out of range
        del items[idx]
        self._renumber(items)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[AnyModule]:
        return iter(self._modules.values())

    def append(self, module: AnyModule) -> Self:
        """Add a module at the end; return self."""
        self.add_module(str(len(self)), module)
        return self

    def pop(self, key: int | slice) -> AnyModule:
        """Remove and return the module or modules at an index or slice."""
        item = self[key]  # type: ignore[index]
        del self[key]
        return item


class Sequential(NumberedModules):
    """Calls its children in order, each with the output of the one before.

    Args:
        args: modules, or one OrderedDict of name -> module.
    """

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
        """Insert a module before an index; return self.

        Raises:
            AssertionError: not a module.
            IndexError: the index is out of range.
        """
        if not isinstance(module, MODULE_TYPES):
            raise AssertionError(f"module should be of type: {Module}")
        items = self._items()
        if not -len(items) <= index <= len(items):
            raise IndexError(f"Index out of range: {index}")
        items.insert(index, module)
        self._renumber(items)
        return self

    def extend(self, sequential: Iterable[AnyModule]) -> Self:
        """Add modules at the end; return self."""
        for module in list(sequential):
            self.append(module)
        return self

    def __add__(self, other: "Sequential") -> "Sequential":
        return Sequential(*self, *_require_sequential(other))

    def __iadd__(self, other: "Sequential") -> Self:
        return self.extend(_require_sequential(other))

    def __mul__(self, other: int) -> "Sequential":
        return Sequential(*(self._items() * self._require_count(other)))

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

    def extend(self, modules: Iterable[AnyModule]) -> Self:
        """Add modules at the end; return self.

        Raises:
            TypeError: not an iterable.
        """
        if not isinstance(modules, Iterable):
            raise TypeError(
                "ModuleList.extend should be called with an iterable, but got "
                f"{type(modules).__name__}"
            )
        for module in list(modules):
            self.append(module)
        return self

    def __add__(self, other: Iterable[AnyModule]) -> "ModuleList":
        return ModuleList(chain(self, other))

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

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove all modules."""
        self._modules.clear()

    def pop(self, key: str) -> AnyModule:
        """Remove and return a module."""
        return self._modules.pop(key)

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self._as_dict().keys()

    def items(self) -> ItemsView[str, AnyModule]:
        """Return the (name, module) pairs."""
        return self._as_dict().items()

    def values(self) -> ValuesView[AnyModule]:
        """Return the modules."""
        return self._as_dict().values()

    def _as_dict(self) -> dict[str, AnyModule]:
        return self._modules

    def update(self, modules: Any) -> None:
        """Add modules from a mapping or from (name, module) pairs.

        Raises:
            TypeError: neither of the two.
            ValueError: an element that is not a pair.
        """
        for key, module in _pairs(modules):
            self[key] = module


def _require_sequential(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(
            f"add operator supports only objects of Sequential class, but {type(other)} is given."
        )
    return other


def _pairs(source: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(source, Iterable):
        raise TypeError(
            "ModuleDict.update should be called with an iterable of key/value pairs, but got "
            f"{type(source).__name__}"
        )
    if isinstance(source, (Mapping, ModuleDict, torch.nn.ModuleDict)):
        return list(source.items())
    return [_pair(index, element) for index, element in enumerate(source)]


def _pair(index: int, element: Any) -> tuple[str, Any]:
    where = f"ModuleDict update sequence element #{index}"
    if not isinstance(element, Iterable):
        raise TypeError(f"{where} should be Iterable; is {type(element).__name__}")
    pair = tuple(element)
    if len(pair) != 2:
        raise ValueError(f"{where} has length {len(pair)}; 2 is required")
    return pair
