"""Tables of a module's members and hooks, which are made when they are first needed."""

from collections.abc import Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, Self
from weakref import ref

PARAMETERS: Final = "_parameters"
BUFFERS: Final = "_buffers"
MODULES: Final = "_modules"
KINDS: Final = (PARAMETERS, BUFFERS, MODULES)
TRANSIENT: Final = "_non_persistent_buffers_set"  # names of buffers that are not saved
FROM_CUPOLA: Final = "_from_cupola"  # marks a layer of torch that the bridge made from ours

EMPTY: Final[Mapping[Any, Any]] = MappingProxyType({})


def table_of(module: Any, name: str) -> Mapping[Any, Any]:
    """Return a table of a cupola or torch module, live, without making one."""
    table: Mapping[Any, Any] = module.__dict__.get(name, EMPTY)
    return table


class Table(dict[str, Any]):
    """The parameters, buffers or children of a module: torch.nn's dictionaries. Each member is
    also an attribute in the module's ``__dict__``, where it is read as fast as any other; what
    changes in the table changes there as well. A table does not keep its module alive."""

    __slots__ = ("owner",)
    owner: ref[Any]

    @classmethod
    def of(cls, owner: Any, members: Mapping[str, Any] = EMPTY) -> Self:
        """Return a table of members for a module, whose attributes stay as they are."""
        table = cls(members)
        table.owner = ref(owner)
        return table

    def __setitem__(self, name: str, value: Any) -> None:
        dict.__setitem__(self, name, value)
        if (owner := self.owner()) is not None:
            values = owner.__dict__
            values[name] = value
            for kind in KINDS:
                if kind in values and name in values[kind] and values[kind] is not self:
                    dict.pop(values[kind], name)

    def __delitem__(self, name: str) -> None:
        value = self[name]
        super().__delitem__(name)
        if (owner := self.owner()) is not None and owner.__dict__.get(name) is value:
            owner.__dict__.pop(name, None)

    # The methods of dict would change the table alone.
    pop = MutableMapping.pop
    clear = MutableMapping.clear
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last member."""
        name = next(reversed(self), None)
        if name is None:
            raise KeyError("popitem(): dictionary is empty")
        return name, self.pop(name)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class Lazy:
    """An attribute that is made when it is first read; most modules never need it."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type) -> Any:
        if module is None:
            return self
        value = module.__dict__[self.name] = self.make(module)
        return value
