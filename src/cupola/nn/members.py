"""The kinds of members that a module has, and live views of them as torch.nn's mappings."""

from collections.abc import ItemsView, Iterator, MutableMapping, MutableSet, ValuesView
from typing import Any, Final, Self, overload
from weakref import ref

PARAMETER: Final = "parameter"
BUFFER: Final = "buffer"
TRANSIENT: Final = "transient buffer"  # registered with persistent=False: not in the state dict
MODULE: Final = "module"

Kinds = dict[str, str]


class Members(MutableMapping[str, Any]):
    """The members of one kind of a module, as a live dictionary."""

    __slots__ = ("_accepted", "_kinds", "_values")

    def __init__(self, values: dict[str, Any], kinds: Kinds, *accepted: str) -> None:
        self._values = values
        self._kinds = kinds
        self._accepted = accepted

    def __getitem__(self, name: str) -> Any:
        if self._kinds.get(name) not in self._accepted:
            raise KeyError(name)
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if self._kinds.get(name) not in self._accepted:
            if self._kinds.pop(name, None) == MODULE and "_modules" in self._values:
                dict.pop(self._values["_modules"], name, None)
            self._kinds[name] = self._accepted[0]
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        if self._kinds.get(name) not in self._accepted:
            raise KeyError(name)
        del self._kinds[name]
        del self._values[name]

    def copy(self) -> dict[str, Any]:
        """Return an ordinary dictionary of the members."""
        values, accepted = self._values, self._accepted
        return {name: values[name] for name, kind in self._kinds.items() if kind in accepted}

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.copy())

    def __len__(self) -> int:
        return len(self.copy())

    def __repr__(self) -> str:
        return repr(self.copy())

    # The mix-in methods of Mapping would look every name up again.

    def items(self) -> ItemsView[str, Any]:
        """Return the (name, member) pairs at this moment."""
        return self.copy().items()

    def values(self) -> ValuesView[Any]:
        """Return the members at this moment."""
        return self.copy().values()


class Children(dict[str, Any]):
    """The children of a module, kept beside its attributes: reading it costs what a dict does.

    Every change changes the module as well. It does not keep the module alive.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: Any) -> None:
        values, kinds = owner.__dict__, owner.__dict__["_kinds"]
        super().__init__({name: values[name] for name, kind in kinds.items() if kind == MODULE})
        self._owner = ref(owner)

    def __setitem__(self, name: str, value: Any) -> None:
        if (owner := self._owner()) is not None:
            if owner._kinds.get(name, MODULE) != MODULE:
                owner._forget(name)
            owner._keep(name, value, MODULE)
        else:
            super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        if (owner := self._owner()) is not None:
            del owner._kinds[name]
            owner.__dict__.pop(name, None)

    # The methods of dict would change the dictionary alone.
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class ChildrenTable:
    """The attribute ``_modules``: a :class:`Children` that is made when it is first needed."""

    @overload
    def __get__(self, module: None, owner: type) -> Self: ...
    @overload
    def __get__(self, module: Any, owner: type) -> Children: ...
    def __get__(self, module: Any, owner: type) -> "Children | ChildrenTable":
        if module is None:
            return self
        children = module.__dict__["_modules"] = Children(module)
        return children


class TransientNames(MutableSet[str]):
    """The names of the buffers that are not saved, as a live set."""

    __slots__ = ("_kinds",)

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._kinds.get(name) == TRANSIENT

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, kind in self._kinds.items() if kind == TRANSIENT])

    def __len__(self) -> int:
        return sum(kind == TRANSIENT for kind in self._kinds.values())

    def add(self, value: str) -> None:
        """Exclude a buffer from the state dict."""
        if self._kinds.get(value) == BUFFER:
            self._kinds[value] = TRANSIENT

    def discard(self, value: str) -> None:
        """Include a buffer in the state dict."""
        if value in self:
            self._kinds[value] = BUFFER

    def __repr__(self) -> str:
        return repr(set(self))
