"""What a config file may call: a closed list of builtins, methods and pure helpers."""

import copy
import math
import os.path
import posixpath
import string
from collections.abc import Callable, Iterable
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dicts import ConfigDict, TracedDict
from cupola.config.merge import merge_in_place
from cupola.errors import ConfigError

METHODS: dict[type, str] = {
    str: "capitalize count endswith find format index isdigit join lower lstrip removeprefix "
    "removesuffix replace rsplit rstrip split startswith strip title upper",
    list: "append clear copy count extend index insert pop remove reverse sort",
    dict: "clear copy get items keys pop popitem setdefault update values",
    tuple: "count index",
    set: "add copy difference discard intersection union update",
}

# Module name -> what `from module import name` or `module.name` may reach in it.
MODULES: dict[str, dict[str, Any]] = {
    "copy": {"copy": copy.copy, "deepcopy": copy.deepcopy},
    "math": {
        name: getattr(math, name)
        for name in ("ceil", "cos", "exp", "floor", "inf", "log", "pi", "sin", "sqrt")
    },
    "os.path": {
        name: getattr(posixpath, name) for name in ("basename", "dirname", "join", "splitext")
    },
}
MODULES["os"] = {"path": MODULES["os.path"], "sep": os.path.sep}


class Functions:
    """The callables of one evaluation; each pays the budget before it makes anything."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._weighed: dict[str, Callable[..., Any]] = {
            function.__name__: self._weigh_first(function)
            for function in (abs, all, any, bool, float, int, max, min, round, sorted)
        }
        self.table: dict[str, Callable[..., Any]] = {
            **self._weighed,
            "dict": TracedDict,
            "enumerate": enumerate,
            "len": len,
            "list": self._collect(list),
            "range": range,
            "reversed": reversed,
            "set": self._collect(set),
            "str": self._weigh_first(str),
            "sum": self._sum,
            "tuple": self._collect(tuple),
            "zip": zip,
        }

    def is_allowed(self, function: Any) -> bool:
        """Whether a value may be called: one of `table` or of MODULES, by identity."""
        tables = (self.table, *MODULES.values())
        return callable(function) and any(function is f for t in tables for f in t.values())

    def call_method(self, owner: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls a method from METHODS; ConfigError if the type of `owner` does not offer it."""
        kind = next((kind for kind in METHODS if isinstance(owner, kind)), None)
        mergeable = name == "merge" and isinstance(owner, ConfigDict)
        if kind is None or not (mergeable or name in METHODS[kind].split()):
            raise ConfigError(f"a call of .{name}() on a {type(owner).__name__} is not allowed")
        if kind is str:
            return self._call_text(owner, name, args, kwargs)
        for each in (*args, *kwargs.values()):
            self._budget.weigh(each)
        if name in {"copy", "count", "index", "remove", "sort", "union", "update"}:
            self._budget.weigh(owner)
        if name == "merge":
            return merge_in_place(owner, *args)
        if name == "extend":
            args = [list(self._budget.iterate(args[0]))] if len(args) == 1 else args
        if name == "pop" and isinstance(owner, ConfigDict) and len(args) == 1:
            args = [*args, None]  # mmengine's dicts of bases never miss a key in pop
        return getattr(owner, name)(*args, **kwargs)

    def call(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls one of `table` or MODULES."""
        if any(function is each for each in MODULES["copy"].values()):
            self._budget.weigh(args)
        return function(*args, **kwargs)

    def _call_text(self, text: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name == "format":
            return self._format(text, args, kwargs)
        if name == "join":
            args = [list(self._budget.iterate(each)) for each in args]
            self._budget.charge(sum(len(text) + len(str(e)) for each in args for e in each))
        if name == "replace" and len(args) > 1 and all(isinstance(e, str) for e in args[:2]):
            self._budget.charge(len(text) + text.count(args[0]) * len(args[1]))
        self._budget.charge(len(text) // 16)
        return getattr(text, name)(*args, **kwargs)

    def _format(self, text: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        for _, field, spec, conversion in string.Formatter().parse(text):
            if field and not field.isidentifier() and not field.isdigit():
                raise ConfigError(f"a format field that reaches into a value: {{{field:.40}}}")
            if conversion or (spec and "{" in spec):
                raise ConfigError(f"a format field that is too clever: {text[:40]!r}")
            self._budget.check_format(spec or "")
        self._budget.charge(len(text))
        for each in (*args, *kwargs.values()):
            self._budget.weigh(each)
            self._budget.charge(len(each) * text.count("{") if isinstance(each, str) else 0)
        return text.format(*args, **kwargs)

    def _weigh_first(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def weighed(*args: Any, **kwargs: Any) -> Any:
            for each in args:
                self._budget.weigh(each)
            listed = [
                list(self._budget.iterate(each))
                if isinstance(each, Iterable) and not isinstance(each, str | dict | list | tuple)
                else each
                for each in args
            ]
            return function(*listed, **kwargs)

        return weighed

    def _collect(self, kind: Callable[[Iterable[Any]], Any]) -> Callable[..., Any]:
        def collect(items: Iterable[Any] = ()) -> Any:
            return kind(self._budget.iterate(items))

        return collect

    def _sum(self, items: Iterable[Any], start: Any = 0) -> Any:
        total = start
        for item in self._budget.iterate(items):
            if isinstance(total, list | tuple):
                self._budget.charge(len(total))
            total = total + item
        return total


def is_import(value: Any) -> bool:
    """Whether a variable holds a module or a callable, which are no data."""
    return callable(value) or any(value is module for module in MODULES.values())
