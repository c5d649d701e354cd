"""The callables that a config may use: a closed list of builtins, methods and pure helpers."""

import copy
import math
import os.path
import posixpath
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dicts import ConfigDict, TracedDict
from cupola.config.merge import merge_in_place
from cupola.config.streams import Stream
from cupola.config.texts import Texts
from cupola.errors import ConfigError

METHODS: dict[type, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        str: "capitalize count endswith find format index isdigit join lower lstrip removeprefix "
        "removesuffix replace rsplit rstrip split startswith strip title upper",
        list: "append clear copy count extend index insert pop remove reverse sort",
        dict: "clear copy get items keys pop popitem setdefault update values",
        tuple: "count index",
        set: "add copy difference discard intersection union update",
    }.items()
}
# Methods that look at no element; that look at all of them; that make a new container.
_SHALLOW = {"append", "clear", "copy", "extend", "insert", "items", "keys", "popitem"}
_WALKS = {"count", "difference", "index", "intersection", "remove", "sort", "union", "update"}
_COPIES = {"copy", "difference", "intersection", "union"}
_MAX_DIGITS = 4_300  # of an integer in a text; Python's own limit


class Module:
    """What a config may reach in a module of Python's library."""

    def __init__(self, name: str, members: Mapping[str, Any]) -> None:
        self.name = name
        self.members = members


class Functions:
    """The callables of one evaluation; each pays the budget for its work and its result."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.texts = Texts(budget)
        self.table: dict[str, Callable[..., Any]] = {
            "abs": self._paid(abs),
            "all": lambda items, /: all(budget.iterate(items)),
            "any": lambda items, /: any(budget.iterate(items)),
            "bool": bool,
            "dict": self._dict,
            "enumerate": self._enumerate,
            "float": self._paid(float),
            "int": self._int,
            "len": len,
            "list": lambda items=(), /: list(budget.iterate(items)),
            "max": self._of_items(max),
            "min": self._of_items(min),
            "range": range,
            "reversed": lambda items, /: Stream(iter(reversed(items)), [items]),
            "round": self._round,
            "set": lambda items=(), /: set(self._hashable(items)),
            "sorted": self._of_items(sorted),
            "str": self._str,
            "sum": self._sum,
            "tuple": lambda items=(), /: tuple(budget.iterate(items)),
            "zip": self._zip,
        }
        maths = ("ceil", "cos", "exp", "floor", "log", "sin", "sqrt")
        paths = ("basename", "dirname", "join", "splitext")
        path = {name: self._paid(getattr(posixpath, name)) for name in paths}
        modules: dict[str, dict[str, Any]] = {
            "copy": {"copy": self._paid(copy.copy), "deepcopy": self._paid(copy.deepcopy)},
            "math": {name: self._paid(getattr(math, name)) for name in maths}
            | {"inf": math.inf, "pi": math.pi},
            "os.path": path,
            "os": {"path": Module("os.path", path), "sep": os.path.sep},
        }
        self.modules = {name: Module(name, members) for name, members in modules.items()}
        for name, function in self.table.items():
            if isinstance(function, FunctionType):
                function.__name__ = function.__qualname__ = name  # for error messages
        tables = (self.table, *modules.values())
        self._allowed = {id(each) for table in tables for each in table.values() if callable(each)}

    def is_allowed(self, function: Any) -> bool:
        """Whether a value may be called: one of `table` or of `modules`, by identity."""
        return id(function) in self._allowed

    def call(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls one of `table` or `modules`."""
        return self.budget.pay(function(*args, **kwargs))

    def call_method(self, owner: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls a method from METHODS; ConfigError if the type of `owner` does not offer it."""
        kind = next((kind for kind in METHODS if isinstance(owner, kind)), None)
        mergeable = name == "merge" and isinstance(owner, ConfigDict)
        if kind is None or not (mergeable or name in METHODS[kind]):
            raise ConfigError(f"a call of .{name}() on a {type(owner).__name__} is not allowed")
        if kind is str:
            return self.texts.call(owner, name, args, kwargs)
        if name in ("insert", "pop", "remove", "reverse") and kind is list:
            self.budget.charge(len(owner) // 64)  # what moves in the memory of a list
        if name in ("extend", "update", "union", "difference", "intersection"):
            args = [
                each if isinstance(each, dict | set) else list(self.budget.iterate(each))
                for each in args
            ]
        if name not in _SHALLOW or isinstance(owner, ConfigDict):
            for each in (*args, *kwargs.values()):
                self.budget.weigh(each)
        if name in _WALKS and kind is not dict:
            self.budget.weigh(owner)
        if name == "merge":
            return merge_in_place(owner, *args)
        if name == "pop" and isinstance(owner, ConfigDict) and len(args) == 1:
            args = [*args, None]  # mmengine's dicts of bases never miss a key in pop
        made = getattr(owner, name)(*args, **kwargs)
        return self.budget.pay(made) if name in _COPIES else made

    def _paid(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def paid(*args: Any, **kwargs: Any) -> Any:
            for each in (*args, *kwargs.values()):
                self.budget.weigh(each)
            return self.budget.pay(function(*args, **kwargs))

        return paid

    def _of_items(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`max`, `min` and `sorted`, which compare the items of their only argument."""

        def compare(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 1:
                args = ([*self.budget.iterate(args[0])],)
            self.budget.weigh(args)
            return function(*args, **kwargs)

        return compare

    def _hashable(self, items: Iterable[Any]) -> Iterable[Any]:
        for item in self.budget.iterate(items):
            self.budget.weigh(item)
            yield item

    def _dict(self, *args: Any, **kwargs: Any) -> TracedDict:
        if len(args) > 1:
            raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
        made = TracedDict()
        for source in (*args, kwargs):
            pairs = source if isinstance(source, Mapping) else dict(self._hashable(source))
            self.budget.charge(len(pairs))
            made.update(pairs)
            made.origins.update(getattr(source, "origins", {}))
        return made

    def _enumerate(self, items: Iterable[Any], start: int = 0) -> Stream:
        return Stream(enumerate(self.budget.iterate(iter(items)), start), [items])

    def _zip(self, *sources: Iterable[Any], strict: bool = False) -> Stream:
        paid = [self.budget.iterate(iter(each)) for each in sources]
        return Stream(zip(*paid, strict=strict), sources)

    def _int(self, value: Any = 0, *base: Any, **kwargs: Any) -> int:
        if isinstance(value, str | bytes) and len(value) > _MAX_DIGITS:
            raise ConfigError(f"an integer of more than {_MAX_DIGITS} digits")
        return int(value, *base, **kwargs)

    def _round(self, number: Any, ndigits: Any = None) -> Any:
        if isinstance(ndigits, int) and abs(ndigits) > 999:
            raise ConfigError("a rounding to more than 999 digits")
        return round(number, ndigits)

    def _str(self, value: Any = "") -> str:
        self.budget.weigh(value, as_text=True)
        return str(value)

    def _sum(self, items: Iterable[Any], start: Any = 0) -> Any:
        if isinstance(start, str | bytes):
            raise TypeError(f"sum() can't sum {type(start).__name__}s, use join")
        listed = list(self.budget.iterate(items))
        if all(isinstance(each, int | float | complex) for each in (start, *listed)):
            return sum(listed, start)
        total = start
        for item in listed:
            total = total + item
            self.budget.pay(total)
        return total
