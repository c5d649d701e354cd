"""Registry: a named table of classes and callables that configs refer to."""

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from importlib import import_module
from typing import Any, TypeVar

from cupola.errors import BuildError, nearest
from cupola.registry.construct import Maker, construct
from cupola.registry.plugins import load_entry_points
from cupola.registry.scopes import FOREIGN, current_scope
from cupola.registry.source import source_file

_TYPO = 0.85  # a published class that is missing often resembles one that is not, less closely
T = TypeVar("T", bound=Callable[..., Any])
ListBuilder = Callable[["Registry", Sequence[Any]], Any]


class Registry:
    """A table from names to classes or callables, and `build`, which calls one from a dict.

    A child registry (`parent=`, `scope=`) holds the names of one package and falls back to its
    parents. `locations` are imported on the first look-up.
    """

    def __init__(
        self,
        name: str,
        locations: Sequence[str] = (),
        *,
        parent: "Registry | None" = None,
        scope: str = "cupola",
        list_builder: "ListBuilder | None" = None,
    ) -> None:
        self.name = name
        self.scope = scope
        self.parent = parent
        self.children: dict[str, Registry] = {}
        self._locations = list(locations)
        self._table: dict[str, Maker] = {}
        self._list_builder: ListBuilder | None = list_builder or (
            parent._list_builder if parent else None
        )
        if parent is not None:
            if scope in parent.children:
                raise KeyError(f"{parent.name} already has a child of scope {scope!r}")
            parent.children[scope] = self

    def __repr__(self) -> str:
        return f"Registry({self.name!r}, scope={self.scope!r}, {len(self._table)} names)"

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def names(self) -> list[str]:
        """All names that a config can use here, sorted."""
        self._import_locations()
        inherited = self.parent.names() if self.parent else []
        return sorted({*self._table, *inherited})

    def register_module(
        self,
        name: str | Sequence[str] | None = None,
        *,
        force: bool = False,
        module: T | None = None,
    ) -> Any:
        """Registers a class or function under `name` (default: its own) or several names.

        A decorator, unless `module` is given. KeyError if a name is taken, unless `force`.
        """

        def register(maker: T) -> T:
            names = [maker.__name__] if name is None else [name] if isinstance(name, str) else name
            for each in names:
                if self._table.get(each, maker) is not maker and not force:
                    raise KeyError(
                        f"{each!r} is already registered in {self.name}, "
                        f"from {source_file(self._table[each])}; force=True replaces it"
                    )
                self._table[each] = maker
            return maker

        return register if module is None else register(module)

    def get(self, name: str) -> Maker:
        """The class registered under `name`; BuildError with the nearest names on a miss.

        `name` is bare or begins with a scope (``mmdet.DETR``). A bare name is looked up in the
        child of the current scope, here, and in the parents.
        """
        found = self.find(name)
        if found is None:
            raise BuildError(f"{name!r} is not in the registry {self.name}{self._hint(name)}")
        return found

    def find(self, name: str) -> Maker | None:
        """Like `get`, but None on a miss."""
        self._import_locations()
        scope, _, short = name.rpartition(".")
        scope = scope.split(".")[0]
        if scope and scope not in FOREIGN and scope not in self._root().children:
            return None
        for registry in self._search_order(scope or current_scope()):
            registry._import_locations()
            if short in registry._table:
                return registry._table[short]
        return None

    def build(self, cfg: Mapping[str, Any] | Sequence[Any], **defaults: Any) -> Any:
        """Calls the class that `cfg["type"]` names with the rest of `cfg`; `cfg` is not changed.

        `defaults` are arguments that `cfg` does not have. A list of configs becomes a Sequential
        if the registry has a `list_builder`. Errors name the path in the config.
        """
        if isinstance(cfg, Sequence) and not isinstance(cfg, str) and self._list_builder:
            return self._list_builder(self, cfg)
        return construct(self.name, self.get, cfg, defaults)

    def _root(self) -> "Registry":
        return self.parent._root() if self.parent else self

    def _search_order(self, scope: str | None) -> list["Registry"]:
        """The registries to search for a name, in order."""
        first = self._root().children.get(scope) if scope and scope != self.scope else None
        here: list[Registry] = [self] if first is None else [first, self]
        while here[-1].parent is not None:
            here.append(here[-1].parent)
        return here

    def _import_locations(self) -> None:
        if self._locations:
            load_entry_points()
        while self._locations:
            import_module(self._locations.pop(0))

    def _hint(self, name: str) -> str:
        scope, _, short = name.rpartition(".")
        names = nearest(short, self.names())
        if names and SequenceMatcher(None, short, names[0]).ratio() > _TYPO:
            found = self.find(names[0])
            return f"; did you mean {names[0]!r}, from {source_file(found)}?"
        if scope and scope.split(".")[0] not in FOREIGN:
            return f"; there is no scope {scope!r}, and dotted paths are never imported"
        return "; this family is not included; register it with --plugin"
