"""Registry: a named table from type names to classes or callables."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from cupola.errors import BuildError, did_you_mean

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """A table from names to classes or callables, and `build`, which calls one from a dict."""

    def __init__(self, name: str, locations: Sequence[str] = ()) -> None:
        self.name = name
        self._locations = list(locations)
        self._table: dict[str, Callable[..., Any]] = {}

    def register_module(
        self, name: str | Sequence[str] | None = None, *, force: bool = False
    ) -> Callable[[T], T]:
        """Decorator: registers a class or function under `name` (default: its own) or several."""

        def register(obj: T) -> T:
            names = [obj.__name__] if name is None else [name] if isinstance(name, str) else name
            for each in names:
                if each in self._table and not force:
                    raise KeyError(f"{each!r} is already registered in {self.name}")
                self._table[each] = obj
            return obj

        return register

    def get(self, name: str) -> Callable[..., Any]:
        """The class registered under `name`; BuildError with the nearest names on a miss."""
        while self._locations:
            import_module(self._locations.pop(0))
        short = name.rsplit(".", 1)[-1]
        if short not in self._table:
            hint = did_you_mean(short, self._table)
            raise BuildError(f"{name!r} is not in the registry {self.name}{hint}")
        return self._table[short]

    def build(self, cfg: Mapping[str, Any], **defaults: Any) -> Any:
        """Calls the class that `cfg["type"]` names with the rest of `cfg`; `cfg` is not changed."""
        arguments = {**defaults, **cfg}
        kind = arguments.pop("type")
        maker = self.get(kind) if isinstance(kind, str) else kind
        return maker(**arguments)
